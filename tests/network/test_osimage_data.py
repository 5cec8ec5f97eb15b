"""The data disk of the node's operating system, under the real udev and systemd.

A disk is unplugged by taking its PCI device away, and is found again with its content.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import cache
from guests.testvm import DISKS
from network.facts import wait_until

from qemu_node.host.process.command import run_blocking

pytestmark = [pytest.mark.needs_vlans, pytest.mark.needs_test_vm, pytest.mark.timeout(400)]

FIRST, SECOND = DISKS
DATA = Path("/data")
RECORD = Path("/oem/qemu-node/data-disk")
LINK = Path("/dev/qemu-node/data")
UNITS = ("data.mount", "nomad.service", "qemu-node-data.service", "qemu-node-late-data.service")
FILES = (
    "usr/lib/qemu-node/is-data-disk",
    "usr/lib/udev/rules.d/62-qemu-node-data.rules",
    *(f"usr/lib/systemd/system/{unit}" for unit in UNITS),
)
# The half minute of the image, in short.
SHORT_WAIT = "[Unit]\nJobRunningTimeoutSec=1\n"
# What Nomad's unit calls before Nomad is not under test, and takes minutes here.
COMMAND = f"""#!/bin/sh
[ "$1 $2" = "os data-mounted" ] || exit 0
PYTHONPATH=/opt/site:{cache.REPO}/src exec python3 -m qemu_node "$@"
"""


def said(*argv: str, check: bool = True) -> str:
    return run_blocking(argv, timeout_s=120, check=check).stdout.decode()


def by_id(serial: str) -> Path:
    return Path(f"/dev/disk/by-id/virtio-{serial}")


def settle() -> None:
    said("udevadm", "settle")


def unplug(*serials: str) -> None:
    for serial in serials:
        if by_id(serial).exists():
            virtio = Path("/sys/class/block", by_id(serial).resolve().name, "device").resolve()
            (virtio.parent / "remove").write_text("1\n")
    settle()


def plug_in() -> None:
    """Have all unplugged disks found, and wait until udev has seen them."""
    Path("/sys/bus/pci/rescan").write_text("1\n")
    for serial in DISKS:
        wait_until(by_id(serial).exists, f"the disk {serial}")
    settle()


def make_data(serial: str) -> None:
    said("mkfs.ext4", "-q", "-F", "-L", "DATA", str(by_id(serial)))
    settle()


def erase(serial: str) -> None:
    said("wipefs", "--all", "--quiet", str(by_id(serial)))
    settle()


def is_active(unit: str) -> bool:
    return said("systemctl", "is-active", unit, check=False) == "active\n"


def is_idle() -> bool:
    """Tell whether systemd has done all that it was told to."""
    return said("systemctl", "list-jobs", "--no-legend") == ""


def mounted() -> str:
    """Return the serial number of the disk on /data; empty if nothing is mounted."""
    source = said("findmnt", "--noheadings", "--output=SOURCE", str(DATA), check=False).strip()
    return next((name for name in DISKS if source and Path(source) == by_id(name).resolve()), "")


def record_is(serial: str) -> bool:
    return RECORD.exists() and RECORD.read_text() == f"{by_id(serial)}\n"


def wait_for_record(serial: str) -> None:
    """Wait until the disk is remembered: by our command, which is slow here, without bytecode."""
    wait_until(lambda: record_is(serial), "the disk to be remembered", timeout_s=120)


def wait_for_nomad() -> None:
    """Wait until Nomad has started, which waits for the same command."""
    wait_until(lambda: is_active("nomad.service"), "Nomad", timeout_s=120)


def kernel_log() -> str:
    return said("dmesg")


@pytest.fixture(scope="module")
def system() -> Iterator[None]:
    """Lay the files over the VM's root, as the OS build does."""
    source = cache.REPO / "osimage" / "files"
    for name in FILES:
        target = Path("/") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target)
    wait = Path("/etc/systemd/system", f"{said('systemd-escape', '--path', str(LINK)).strip()}"
                ".device.d")  # fmt: skip
    wait.mkdir(parents=True)
    (wait / "short.conf").write_text(SHORT_WAIT)
    for path, text in (
        (Path("/usr/bin/qemu-node"), COMMAND),
        (Path("/usr/bin/nomad"), (cache.REPO / "tests/os/nomad-stand-in").read_text()),
    ):
        path.write_text(text)
        path.chmod(0o755)
    for directory in (DATA, Path("/run/elemental")):
        directory.mkdir()
    Path("/run/elemental/active_mode").touch()
    said("systemctl", "enable", "nomad.service", "qemu-node-data.service")
    said("systemctl", "daemon-reload")
    said("udevadm", "control", "--reload")
    wait_until(lambda: is_active("multi-user.target"), "the end of the boot")
    yield
    said("systemctl", "disable", "nomad.service", "qemu-node-data.service")


@pytest.fixture
def node(system: None) -> Iterator[None]:
    """Give a node that has never seen a data disk; both disks are there and empty."""
    plug_in()
    Path("/oem").mkdir()
    yield
    said("systemctl", "stop", "nomad.service", "data.mount")
    plug_in()
    for serial in DISKS:
        erase(serial)
    shutil.rmtree("/oem")


def configure() -> None:
    """Give the mounted file system a configuration of Nomad."""
    (DATA / "config").mkdir()
    (DATA / "config/node.hcl").touch()


def test_a_disk_that_is_made_is_mounted_by_hand_once_and_starts_nomad(node: None) -> None:
    said("systemctl", "start", "nomad.service")
    make_data(FIRST)
    assert mounted() == ""
    said("mount", "LABEL=DATA", str(DATA))
    wait_for_record(FIRST)
    configure()
    said("umount", str(DATA))
    said("mount", "LABEL=DATA", str(DATA))
    wait_for_nomad()


def test_a_disk_that_comes_late_is_mounted_by_itself_and_nomad_starts(node: None) -> None:
    make_data(FIRST)
    said("mount", "LABEL=DATA", str(DATA))
    configure()
    said("umount", str(DATA))
    unplug(FIRST)
    # A boot without it: the mount's wait ends, Nomad's condition does not hold.
    said("systemctl", "start", "data.mount", check=False)
    said("systemctl", "start", "nomad.service")
    assert not is_active("data.mount")
    assert not is_active("nomad.service")
    plug_in()
    wait_for_nomad()
    assert mounted() == FIRST
    wait_for_record(FIRST)


def test_a_disk_under_repair_is_not_mounted(node: None) -> None:
    make_data(FIRST)
    said("mount", "LABEL=DATA", str(DATA))
    said("umount", str(DATA))
    said("e2fsck", "-f", "-y", str(LINK))
    settle()
    wait_until(is_idle, "systemd to have nothing to do")
    assert mounted() == ""


def test_a_disk_found_while_the_node_is_repaired_is_not_mounted(node: None) -> None:
    make_data(FIRST)
    unplug(FIRST)
    said("systemctl", "stop", "multi-user.target")
    try:
        plug_in()
        wait_until(is_idle, "systemd to have nothing to do")
        assert LINK.exists()
        assert mounted() == ""
    finally:
        said("systemctl", "start", "multi-user.target")


def test_a_copy_of_the_data_disk_is_never_mounted(node: None) -> None:
    make_data(FIRST)
    said("mount", "LABEL=DATA", str(DATA))
    wait_for_record(FIRST)
    said("umount", str(DATA))
    said("dd", f"if={by_id(FIRST)}", f"of={by_id(SECOND)}", "bs=1M", "conv=fsync", "status=none")
    settle()
    assert len({said("blkid", "-o", "value", str(by_id(name))) for name in DISKS}) == 1
    # Both at once, as at a boot.
    unplug(*DISKS)
    plug_in()
    wait_until(lambda: mounted() == FIRST, "the node's own disk on /data")
    # The copy alone.
    said("umount", str(DATA))
    erase(FIRST)
    unplug(*DISKS)
    plug_in()
    wait_until(is_idle, "systemd to have nothing to do")
    assert mounted() == ""
    assert not LINK.exists()
    assert f"{by_id(SECOND).resolve()} has the label DATA and is not /data" in kernel_log()


def test_of_two_new_disks_with_the_label_one_is_mounted_and_stays(node: None) -> None:
    make_data(FIRST)
    make_data(SECOND)
    unplug(*DISKS)
    plug_in()
    wait_until(lambda: mounted() != "", "a disk on /data")
    chosen = mounted()
    wait_for_record(chosen)
    said("umount", str(DATA))
    unplug(*DISKS)
    plug_in()
    wait_until(lambda: mounted() == chosen, "the same disk on /data")
