"""The installation of a node against real disks (loop devices), file systems and tools."""

import json
import os
import shutil
import subprocess  # noqa: TID251 - the programs under test are scripts
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qemu_node.errors import HostError
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.setup.choice import Choice
from qemu_node.nodeos.setup.disks import Disk, Volume, read_disks
from qemu_node.nodeos.setup.install import Installation, run_installation
from qemu_node.nodeos.setup.login import Login, hash_password, is_password
from qemu_node.nodeos.setup.probe import Leftover, find_leftover
from qemu_node.nodeos.setup.source import Machine, SeedPlace, read_seed
from qemu_node.nodeos.setup.staging import Settings
from qemu_node.nodeos.snapshots.clean import system_lock

_FILES = Path(__file__).parents[2] / "osimage/files"
_SEED = b"# seed"


def _tool(*argv: str | Path, **kwargs: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, **kwargs).stdout  # type: ignore[call-overload,no-any-return]


class _Loops:
    """File systems on loop devices."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._count = 0

    def file_system(self, label: str, files: dict[str, bytes]) -> str:
        """Return the device of an ext4 with `files`."""
        self._count += 1
        tree = self._directory / f"tree{self._count}"
        tree.mkdir()
        for name, data in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(data)
        return self._attach(lambda image: _tool(
            "mkfs.ext4", "-q", "-F", "-L", label, "-d", tree, image,
        ))  # fmt: skip

    def empty(self) -> str:
        """Return an empty device."""
        return self._attach(lambda _: "")

    def _attach(self, make: object) -> str:
        self._count += 1
        image = self._directory / f"image{self._count}"
        with image.open("wb") as file:
            file.truncate(32 << 20)
        make(image)  # type: ignore[operator]
        try:
            device = _tool("losetup", "--find", "--show", image).strip()
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"no loop device: {exc.stderr.strip()}")
        self._stack.callback(_tool, "losetup", "--detach", device)
        return device


@pytest.fixture
def loops(tmp_path: Path) -> Iterator[_Loops]:
    with ExitStack() as stack:
        yield _Loops(tmp_path, stack)


def test_the_disks_of_this_machine_are_read() -> None:
    if shutil.which("lsblk") is None:
        pytest.skip("no lsblk")
    for disk in read_disks():
        assert disk.path.startswith("/dev/")
        assert disk.size_bytes > 0


@pytest.mark.needs_root
def test_a_disk_is_read_with_its_file_system(loops: _Loops) -> None:
    device = loops.file_system("DATA", {})
    [disk] = [disk for disk in read_disks(types=("loop",)) if disk.path == device]
    assert disk.labels == {"DATA"}
    assert disk.size_bytes == 32 << 20


@pytest.mark.needs_root
def test_a_disk_with_a_mere_partition_table_is_not_empty(loops: _Loops) -> None:
    device = loops.empty()
    assert [d.volumes for d in read_disks(types=("loop",)) if d.path == device] == [()]
    # The kernel need not know the partitions, nor udev.
    _tool("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", device, input="label: gpt\n")
    [disk] = [disk for disk in read_disks(types=("loop",)) if disk.path == device]
    assert {volume.fstype for volume in disk.volumes} >= {"gpt"}


def _partition(name: str, device: str, fstype: str = "ext4") -> Volume:
    return Volume(path=device, partlabel=name, fstype=fstype)


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("oem", "state", "persistent", "leftover"),
    [
        ({}, {}, {}, Leftover.UNFINISHED),
        ({"qemu-node/seed.toml": _SEED}, {".snapshots/1/x": b""}, {}, Leftover.UNFINISHED),
        ({"qemu-node/seed.toml": _SEED}, {"state.yaml": b""}, {"log/x": b""}, Leftover.INSTALLED),
        ({"qemu-node/seed.toml": b"#"}, {"state.yaml": b""}, {}, Leftover.UNKNOWN),
        ({"90_custom.yaml": b"x"}, {}, {}, Leftover.UNKNOWN),
        ({}, {}, {"log/x": b""}, Leftover.UNKNOWN),
    ],
)
def test_only_our_own_unfinished_work_may_go(
    loops: _Loops,
    oem: dict[str, bytes],
    state: dict[str, bytes],
    persistent: dict[str, bytes],
    leftover: Leftover,
) -> None:
    parts = {"oem": oem, "state": state, "persistent": persistent}
    volumes = [
        _partition(name, loops.file_system(f"COS_{name.upper()}", files))
        for name, files in parts.items()
    ]
    disk = Disk(
        path="/dev/none", size_bytes=1, volumes=(_partition("efi", "/dev/none1", "vfat"), *volumes)
    )
    assert find_leftover(disk, _SEED) is leftover
    # Looking changes nothing and leaves nothing mounted.
    assert not any(volume.path in Path("/proc/self/mounts").read_text() for volume in volumes)


@pytest.mark.needs_root
async def test_a_seed_is_read_from_its_medium(loops: _Loops, tmp_path: Path) -> None:
    device = loops.file_system("SEED", {"seed.toml": _SEED, "config/node.toml": b"", "x/y": b""})
    (tmp_path / "dev/disk/by-label").mkdir(parents=True)
    (tmp_path / "dev/disk/by-label/SEED").symlink_to(device)
    found = await read_seed(None, Machine(), dev=tmp_path / "dev")
    assert found is not None
    assert (found.data, dict(found.beside)) == (_SEED, {"node.toml": b""})
    place = SeedPlace(device=device, path="seed.toml")
    again = await read_seed(place, Machine(), dev=tmp_path)
    assert again is not None
    assert again.data == _SEED


_ELEMENTAL = """#!/bin/sh
set -eu
printf '%s\\n' "$@" >"$ROOT/argv"
cp -r "$ROOT/run/qemu-node-os/install" "$ROOT/seen"
exit "$STATUS"
"""


def _live_system(root: Path, status: int) -> NodePaths:
    paths = NodePaths(root)
    paths.elemental.parent.mkdir(parents=True)
    script = _ELEMENTAL.replace("$ROOT", str(root)).replace("$STATUS", str(status))
    paths.elemental.write_text(script)
    paths.elemental.chmod(0o755)
    (root / "etc/elemental/config.d").mkdir(parents=True)
    (root / "etc/elemental/config.yaml").write_text("strict: true\n")
    return paths


async def test_elemental_gets_the_settings_and_they_do_not_stay(tmp_path: Path) -> None:
    paths = _live_system(tmp_path, 0)
    installation = Installation(
        choice=Choice(system=Disk(path="/dev/none", size_bytes=1), data_on_system=True),
        settings=Settings(hostname="node1", login=Login(password_hash="$y$x")),
    )
    await run_installation(installation, paths)
    assert (tmp_path / "argv").read_text().split() == [
        "--config-dir", str(paths.run / "install/elemental"), "install", "--strict", "/dev/none",
    ]  # fmt: skip
    seen = tmp_path / "seen"
    assert (seen / "oem/qemu-node/host/hostname").read_text() == "node1\n"
    assert (seen / "elemental/config.yaml").exists()
    added = json.loads((seen / "elemental/config.d/95-installation.yaml").read_text())
    assert added["install"]["extra-partitions"][0]["label"] == "DATA"
    assert not (paths.run / "install").exists()


async def test_an_installer_that_fails_leaves_no_secrets(tmp_path: Path) -> None:
    paths = _live_system(tmp_path, 54)
    installation = Installation(
        choice=Choice(system=Disk(path="/dev/none", size_bytes=1)), settings=Settings(hostname="a")
    )
    with pytest.raises(HostError, match="elemental install failed with exit code 54"):
        await run_installation(installation, paths)
    assert not (paths.run / "install").exists()


async def test_a_person_and_a_seed_do_not_install_at_once(tmp_path: Path) -> None:
    """The second would remove the settings of the first, and part its disk anew."""
    paths = _live_system(tmp_path, 0)
    installation = Installation(
        choice=Choice(system=Disk(path="/dev/none", size_bytes=1)), settings=Settings(hostname="a")
    )
    of_the_seed = paths.run / "install/oem/qemu-node/host/hostname"
    of_the_seed.parent.mkdir(parents=True)
    of_the_seed.touch()
    async with system_lock(paths):
        with pytest.raises(HostError, match="another command"):
            await run_installation(installation, paths)
    assert of_the_seed.exists()
    assert not (tmp_path / "argv").exists()


@pytest.mark.needs_root
async def test_the_data_disk_is_formatted_where_that_was_chosen(
    loops: _Loops, tmp_path: Path
) -> None:
    device = loops.empty()
    paths = _live_system(tmp_path / "root", 0)
    link = "/dev/disk/by-id/wwn-1"
    choice = Choice(
        system=Disk(path="/dev/none", size_bytes=1),
        data=Disk(path=device, size_bytes=1, links=(link,)),
        formats_data=True,
    )
    await run_installation(Installation(choice=choice, settings=Settings()), paths)
    [disk] = [disk for disk in read_disks(types=("loop",)) if disk.path == device]
    assert disk.labels == {"DATA"}
    assert (paths.root / "seen/oem/qemu-node/data-disk").read_text() == f"{link}\n"


def _script(name: str) -> Path:
    return _FILES / "usr/lib/qemu-node" / name


@pytest.mark.needs_root
def test_settings_are_applied_to_a_new_etc(tmp_path: Path) -> None:
    kept, root = tmp_path / "host", tmp_path / "root"
    (root / "etc/ssh").mkdir(parents=True)
    kept.mkdir()
    shutil.copy("/etc/passwd", root / "etc/passwd")
    (root / "etc/shadow").write_text("root:*:19000:0:99999:7:::\n")
    (kept / "hostname").write_text("node1\n")
    hashed = hash_password("correct horse")
    (kept / "root-password").write_text(f"root:{hashed}\n")
    key = kept / "ssh_host_ed25519_key"
    _tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    public = key.with_suffix(".pub").read_text().split()[:2]
    _tool(_script("apply-settings"), kept, root)
    assert (root / "etc/hostname").read_text() == "node1\n"
    shadow = (root / "etc/shadow").read_text().split(":")
    assert is_password("correct horse", shadow[1])
    applied = root / "etc/ssh/ssh_host_ed25519_key"
    assert applied.read_bytes() == key.read_bytes()
    assert applied.stat().st_mode & 0o777 == 0o600
    assert applied.with_suffix(".pub").read_text().split()[:2] == public


@pytest.mark.needs_root
@pytest.mark.parametrize("text", ["root:\n", "\n", "root:*\n", "hunter2\n"])
def test_an_empty_password_is_not_applied(tmp_path: Path, text: str) -> None:
    """Anybody at the console would be root."""
    kept, root = tmp_path / "host", tmp_path / "root"
    (root / "etc/ssh").mkdir(parents=True)
    kept.mkdir()
    shutil.copy("/etc/passwd", root / "etc/passwd")
    shadow = "root:!:19000:0:99999:7:::\n"
    (root / "etc/shadow").write_text(shadow)
    (kept / "root-password").write_text(text)
    _tool(_script("apply-settings"), kept, root)
    assert (root / "etc/shadow").read_text() == shadow


def test_without_settings_nothing_is_applied_and_a_wrong_key_is_not(tmp_path: Path) -> None:
    (tmp_path / "root/etc/ssh").mkdir(parents=True)
    (tmp_path / "root/etc/ssh/ssh_host_ed25519_key").write_text("of this boot")
    (tmp_path / "host").mkdir()
    (tmp_path / "host/ssh_host_ed25519_key").write_text("cut off")
    _tool(_script("apply-settings"), tmp_path / "host", tmp_path / "root")
    assert sorted(path.name for path in (tmp_path / "root/etc").iterdir()) == ["ssh"]
    assert [path.name for path in (tmp_path / "root/etc/ssh").iterdir()] == ["ssh_host_ed25519_key"]
    assert (tmp_path / "root/etc/ssh/ssh_host_ed25519_key").read_text() == "of this boot"


@pytest.mark.parametrize(
    ("remembered", "links", "is_ours"),
    [
        ("", "disk/by-label/DATA", True),
        ("/dev/disk/by-id/wwn-0x5\n", "disk/by-label/DATA disk/by-id/wwn-0x5", True),
        # As a person may write it.
        ("/dev/disk/by-id/wwn-0x5", "disk/by-label/DATA disk/by-id/wwn-0x5", True),
        ("/dev/disk/by-id/wwn-0x5\n", "disk/by-id/wwn-0x5-part6 disk/by-label/DATA", True),
        ("/dev/disk/by-id/wwn-0x5\n", "disk/by-id/wwn-0x55-part6", False),
        ("/dev/disk/by-id/wwn-0x5\n", "disk/by-id/wwn-0x6 disk/by-label/DATA", False),
        ("/dev/disk/by-id/wwn-0x5\n", "", False),
        ("/dev/disk/by-id/wwn-0x5", "disk/by-id/wwn-0x6", False),
    ],
)
def test_a_file_system_is_data_if_its_disk_is_the_remembered_one(
    tmp_path: Path, remembered: str, links: str, *, is_ours: bool
) -> None:
    record, log = tmp_path / "data-disk", tmp_path / "kmsg"
    record.write_text(remembered)
    done = subprocess.run(
        [_script("is-data-disk"), *links.split()],
        env={
            "PATH": os.environ["PATH"],
            "QEMU_NODE_RECORD": str(record),
            "QEMU_NODE_KMSG": str(log),
            "QEMU_NODE_CLAIM": str(tmp_path / "claim"),
            "DEVNAME": "/dev/sdz1",
        },
        check=False,
    )
    assert (done.returncode == 0) is is_ours
    assert log.exists() is not is_ours
    if not is_ours:
        assert "/dev/sdz1 has the label DATA and is not /data" in log.read_text()


class FirstDisk:
    """A node that remembers no data disk, and the devices of which udev asks."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "kmsg"
        self.link, self.claim = directory / "data", directory / "claim"
        self._directory = directory

    def ask(self, device: str) -> "subprocess.Popen[bytes]":
        env = {
            "PATH": os.environ["PATH"],
            "DEVNAME": device,
            "QEMU_NODE_RECORD": str(self._directory / "record"),
            "QEMU_NODE_KMSG": str(self.log),
            "QEMU_NODE_DATA_LINK": str(self.link),
            "QEMU_NODE_CLAIM": str(self.claim),
        }
        return subprocess.Popen([_script("is-data-disk")], env=env)


# Devices that every machine has stand for disks.
_ONE, _TWO = "/dev/zero", "/dev/null"


def test_of_two_data_disks_that_are_found_at_once_one_is_the_nodes(tmp_path: Path) -> None:
    node = FirstDisk(tmp_path)
    assert node.ask(_ONE).wait() == 0
    with node.ask(_TWO) as second:
        # udev makes the link after it has asked, while it asks of the other disk.
        node.link.symlink_to(_ONE)
        assert second.wait() == 1
    assert f"{_TWO} has the label DATA and is not /data: {_ONE} has it, too" in node.log.read_text()
    assert node.ask(_ONE).wait() == 0


@pytest.mark.parametrize("first", ["/dev/gone", _ONE], ids=["gone", "lost its label"])
def test_a_disk_whose_link_is_gone_keeps_no_other_from_being_the_nodes(
    tmp_path: Path, first: str
) -> None:
    node = FirstDisk(tmp_path)
    node.claim.symlink_to(first)
    assert node.ask(_TWO).wait() == 0
    assert node.ask(_TWO).wait() == 0
