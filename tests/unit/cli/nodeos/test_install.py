import os
from dataclasses import replace
from pathlib import Path

import pytest

from qemu_node.cli.main import main
from qemu_node.cli.nodeos import install as command
from qemu_node.nodeos.setup import disks as setup_disks
from qemu_node.nodeos.setup.disks import Disk, Volume
from qemu_node.nodeos.setup.login import Login
from qemu_node.units import GIB

_SDA = Disk(path="/dev/none-a", size_bytes=40 * GIB, serial="A")
_SDB = Disk(
    path="/dev/none-b", size_bytes=80 * GIB, serial="B",
    volumes=(Volume(path="/dev/none-b1", fstype="ext4", label="root", size_bytes=GIB),),
)  # fmt: skip
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB8v9K3cN9mXhQb0nE4nZ8gq4R3ks0m3Cw1e6V0cXx1L admin"


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root of a live system with two disks, on which root has a key."""
    (tmp_path / "run/elemental").mkdir(parents=True)
    (tmp_path / "run/elemental/live_mode").touch()
    (tmp_path / "root/.ssh").mkdir(parents=True)
    (tmp_path / "root/.ssh/authorized_keys").write_text(f"{_KEY}\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text("quiet\n")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(setup_disks, "read_disks", lambda: (_SDA, _SDB))
    return tmp_path


def _run(root: Path, *words: str) -> int:
    return main(["os", "--root", str(root), "install", *words])


def test_a_dry_run_says_what_would_be_done(live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(live, "--dry-run", "/dev/none-a") == 0
    assert capsys.readouterr().out.splitlines() == [
        "system: /dev/none-a (40.0 GiB, serial A), which is erased",
        "/data: none yet; `mkfs.ext4 -L DATA DISK` makes it on another disk",
        "root: 1 ssh key, no password",
        "host name: by DHCP",
    ]


def test_a_disk_that_is_not_empty_is_refused_with_what_to_type(
    live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(live, "/dev/none-b") == 1
    said = capsys.readouterr().err
    assert '/dev/none-b1 (ext4 "root", 1.0 GiB)' in said
    assert "elemental install --wipe /dev/none-b" in said


def test_a_node_to_which_nobody_could_log_in_is_refused_where_nobody_can_be_asked(
    live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (live / "root/.ssh/authorized_keys").unlink()
    assert _run(live, "/dev/none-a") == 1
    assert "nobody could log in" in capsys.readouterr().err


def test_a_disk_that_was_filled_while_a_password_was_typed_is_refused(
    live: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a seed, say, whose installation runs beside the person at the console."""
    (live / "root/.ssh/authorized_keys").unlink()
    disks = [_SDA, _SDB]
    monkeypatch.setattr(setup_disks, "read_disks", lambda: tuple(disks))

    def ask() -> Login:
        disks[0] = replace(_SDA, volumes=(Volume(path="/dev/none-a1", label="COS_STATE"),))
        return Login(password_hash="$y$x")

    monkeypatch.setattr(command, "_ask_login", ask)
    monkeypatch.setattr(command, "_install", lambda *_: pytest.fail("it was erased"))
    assert _run(live, "/dev/none-a") == 1
    assert "an installed node" in capsys.readouterr().err


def test_an_installed_node_is_not_installed_from_itself(
    live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (live / "run/elemental/live_mode").rename(live / "run/elemental/active_mode")
    assert _run(live, "/dev/none-a") == 1
    assert "not the live system" in capsys.readouterr().err


def test_a_seed_answers_everything(live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = live / "seed.toml"
    seed.write_text('hostname = "n1"\n[disk]\nserial = "A"\n[data]\nserial = "B"\nwipe = true\n')
    assert _run(live, "--dry-run", "--seed", str(seed)) == 0
    said = capsys.readouterr().out
    assert "/data: /dev/none-b (80.0 GiB, serial B), which is erased" in said
    assert "host name: n1" in said


def test_a_seed_and_a_disk_contradict_each_other(live: Path) -> None:
    seed = live / "seed.toml"
    seed.touch()
    assert _run(live, "--seed", str(seed), "/dev/none-a") == 2


def test_without_a_medium_the_unattended_installation_does_nothing(
    live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(live, "--unattended") == 0
    assert "waits for a person" in capsys.readouterr().out


def test_a_kernel_argument_that_names_no_place_is_said(
    live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (live / "proc/cmdline").write_text("qemu_node.seed=stick\n")
    assert _run(live, "--unattended") == 1
    assert "qemu_node.seed=stick names no place" in capsys.readouterr().err


def test_without_a_disk_it_says_how_to_find_one(
    live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(live) == 2
    assert "lsblk" in capsys.readouterr().err


def test_elementals_options_are_passed_on_as_they_were_given(
    live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr(command, "_install", lambda i, _: seen.append(i.options))
    assert _run(live, "-x", "-comp zstd", "--eject-cd", "-c", "/a.yaml", "/dev/none-a") == 0
    assert seen == [("--cloud-init", "/a.yaml", "--squash-compression", "-comp zstd", "--eject-cd")]
