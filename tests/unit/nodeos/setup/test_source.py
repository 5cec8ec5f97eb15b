import asyncio
from pathlib import Path

import pytest

from qemu_node.errors import ConfigError
from qemu_node.nodeos.setup.source import (
    Machine,
    SeedPlace,
    fill_in,
    read_directory,
    read_machine,
    read_seed,
    seed_names,
    seed_place,
)

_MACHINE = Machine(serial="ABC123", uuid="u-1", macs=("52-54-00-00-00-01",))
_STICK = SeedPlace(device="/dev/sdb1")
_DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("https://h/s.toml", SeedPlace(url="https://h/s.toml")),
        (f"http://h/s#sha256={_DIGEST}", SeedPlace(url="http://h/s", sha256=_DIGEST)),
        (f"http://h/s#sha256={'A' * 64}", SeedPlace(url="http://h/s", sha256=_DIGEST)),
        ("LABEL=X:/a/seed.toml", SeedPlace(device="LABEL=X", path="a/seed.toml")),
        ("/dev/sdb1:/", SeedPlace(device="/dev/sdb1")),
        (
            "/dev/disk/by-path/pci-0:1:2-usb:/s",
            SeedPlace(device="/dev/disk/by-path/pci-0:1:2-usb", path="s"),
        ),
    ],
)
def test_the_kernels_command_line_names_the_place(value: str, place: SeedPlace) -> None:
    assert seed_place(f"quiet qemu_node.seed={value} ro\n") == place


@pytest.mark.parametrize("cmdline", ["quiet", "qemu_node.seed=", "xqemu_node.seed=/dev/a:/b"])
def test_a_command_line_without_it_names_none(cmdline: str) -> None:
    assert seed_place(cmdline) is None


@pytest.mark.parametrize("value", ["seed.toml", "/etc/passwd", "/dev/sdb1:/../x", "ftp://h/s"])
def test_another_form_is_refused_with_what_to_write(value: str) -> None:
    with pytest.raises(ConfigError, match="names no place") as caught:
        seed_place(f"qemu_node.seed={value}")
    assert caught.value.hint is not None
    assert "LABEL=SEED" in caught.value.hint


@pytest.mark.parametrize("fragment", ["", "sha256=", f"sha256={_DIGEST[:-1]}", f"sha512={_DIGEST}"])
def test_a_url_whose_digest_is_mistyped_is_not_taken_unchecked(fragment: str) -> None:
    with pytest.raises(ConfigError, match="no SHA-256") as caught:
        seed_place(f"qemu_node.seed=https://ci:secret@h/s#{fragment}")
    assert "secret" not in caught.value.explain()


def test_one_medium_has_seeds_for_many_machines(tmp_path: Path) -> None:
    (tmp_path / "seed.toml").write_text("# any")
    assert read_directory(tmp_path, _STICK, _MACHINE).data == b"# any"
    (tmp_path / "seed-52-54-00-00-00-01.toml").write_text("# by MAC")
    assert read_directory(tmp_path, _STICK, _MACHINE).data == b"# by MAC"
    (tmp_path / "seed-ABC123.toml").write_text("# by serial")
    found = read_directory(tmp_path, _STICK, _MACHINE)
    assert found.data == b"# by serial"
    assert found.origin == "/dev/sdb1:/seed-ABC123.toml"
    assert seed_names(Machine()) == ["seed.toml"]


def test_a_medium_without_a_seed_says_how_it_may_be_called(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no seed for this machine") as caught:
        read_directory(tmp_path, _STICK, _MACHINE)
    assert caught.value.hint is not None
    assert "seed-ABC123.toml" in caught.value.hint


def test_the_files_beside_a_seed_come_with_it_and_links_do_not(tmp_path: Path) -> None:
    (tmp_path / "seed.toml").touch()
    (tmp_path / "config/tls").mkdir(parents=True)
    (tmp_path / "config/client.hcl").write_text("client {}")
    (tmp_path / "config/tls/ca.pem").write_text("pem")
    (tmp_path / "config/.client.hcl.swp").write_text("x")
    (tmp_path / "config/shadow").symlink_to("/etc/shadow")
    (tmp_path / "config/etc").symlink_to("/etc")
    assert read_directory(tmp_path, _STICK, _MACHINE).beside == {
        "client.hcl": b"client {}",
        "tls/ca.pem": b"pem",
    }


def test_files_without_end_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "seed.toml").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="larger than"):
        read_directory(tmp_path, _STICK, _MACHINE)


def test_a_url_is_filled_in_with_the_machines_facts() -> None:
    assert fill_in("http://h/{serial}/{mac}", _MACHINE) == "http://h/ABC123/52-54-00-00-00-01"
    with pytest.raises(ConfigError, match="no uuid"):
        fill_in("http://h/{uuid}", Machine())


def test_a_machine_is_known_by_its_serial_number_and_real_cards(tmp_path: Path) -> None:
    dmi = tmp_path / "sys/class/dmi/id"
    dmi.mkdir(parents=True)
    (dmi / "product_serial").write_text("../A B/1 \n")
    for name, mac, kind in (("eth0", "52:54:00:AA:00:01", "1"), ("ib0", "80:00", "32")):
        card = tmp_path / "sys/class/net" / name
        (card / "device").mkdir(parents=True)
        (card / "type").write_text(kind)
        (card / "address").write_text(f"{mac}\n")
    (tmp_path / "sys/class/net/br0").mkdir()
    assert read_machine(tmp_path) == Machine(serial="A-B-1", macs=("52-54-00-aa-00-01",))


def test_without_a_medium_there_is_no_seed(tmp_path: Path) -> None:
    assert asyncio.run(read_seed(None, Machine(), dev=tmp_path)) is None
