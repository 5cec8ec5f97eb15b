"""Installation without a person: a seed on a stick."""

from pathlib import Path

import pytest
from scenario.conftest import Built
from scenario.installation import BOOT_TIMEOUT_S, DISK_SIZE, INSTALL_TIMEOUT_S
from scenario.machine import Hardware, Machine, create_disk
from scenario.remote import Remote, make_key

from qemu_node.host.process.command import run_blocking

pytestmark = pytest.mark.timeout(6000)


def _make_stick(path: Path, files: dict[str, str]) -> Path:
    """Return `path`, a FAT file system with the label SEED and `files`."""
    with path.open("wb") as file:
        file.truncate(16 << 20)
    run_blocking(["mformat", "-i", str(path), "-v", "SEED", "::"])
    for name, text in files.items():
        source = path.with_name(name)
        source.write_text(text)
        run_blocking(["mcopy", "-i", str(path), str(source), f"::{name}"])
    return path


def test_seed_on_a_stick_installs_the_node_on_the_disk_that_it_means(
    built: Built, short_tmp_path: Path
) -> None:
    # Of its own: this test waits for no other installation.
    key = short_tmp_path / "key"
    seed = f"""
        hostname = "seeded"
        authorized_keys = ["{make_key(key)}"]
        after = "poweroff"
        [disk]
        serial = "disk1"
        [data]
        same_disk = true
        [files]
        "node.toml" = "[paths]\\ndata = \\"/data\\"\\n"
    """
    stick = _make_stick(short_tmp_path / "stick.img", {"seed.toml": seed})
    other = create_disk(short_tmp_path / "other.qcow2", "32G")
    disk = create_disk(short_tmp_path / "disk.qcow2", DISK_SIZE)
    hardware = Hardware(disks=[other, disk], iso=built.iso, sticks=[stick])
    with Machine(short_tmp_path, hardware) as machine:
        machine.wait_until_off(timeout_s=INSTALL_TIMEOUT_S)
    with Machine(short_tmp_path, Hardware(disks=[other, disk])) as machine:
        remote = Remote(machine, key)
        remote.wait(timeout_s=BOOT_TIMEOUT_S)
        assert remote.run("hostname").strip() == "seeded"
        remote.until("mountpoint -q /data && test -e /data/config/node.toml", timeout_s=300)
        assert remote.run("findmnt -no SOURCE /data").startswith("/dev/vdb")
        assert remote.run("lsblk -no PARTLABEL /dev/vda").strip() == "", "the other disk changed"
        remote.wait_for_boot(timeout_s=BOOT_TIMEOUT_S)
        assert remote.run("systemctl --failed --no-legend --plain") == ""
