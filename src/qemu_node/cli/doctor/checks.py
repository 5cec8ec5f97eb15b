"""What a node needs, judged one thing at a time: pure.

Owns what is good enough, what is worth a warning, what keeps VMs from running, and what to do about
it. Does not own finding out (`nodefacts`) nor how it is printed (`command`). The driver's health is
judged by its fingerprint; these checks say more, and to a person.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from qemu_node.errors import NodeError
from qemu_node.host.files.directories import ClosedDirectory
from qemu_node.host.files.space import DiskSpace
from qemu_node.host.sockets import SUN_PATH_MAX_BYTES
from qemu_node.qemu.accel.qemubinary import QemuBinary
from qemu_node.qemu.firmware import Firmware
from qemu_node.qemu.spec import Accelerator, FirmwareMode
from qemu_node.units import GIB, Share, format_size
from qemu_node.vm.admission import vms_within
from qemu_node.vm.hypervisor import Hypervisor
from qemu_node.vm.names import VM_ID_MAX_BYTES
from qemu_node.vm.reconcile import some

OLDEST_PYTHON = (3, 11)

_LOW_SPACE_BYTES = 10 * GIB
_FEW_VMS = 250
_PROGRAMS = {
    "setpriv": ("QEMU cannot be started without its rights", "util-linux"),
    "qemu-img": ("no qcow2 image can be checked", "qemu-utils"),
}
"""What does not work without each, and its package in Debian."""
_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")


class Level(StrEnum):
    """What a check means for VMs."""

    OK = "ok"
    WARN = "warn"
    """VMs run, and would run better or safer otherwise."""
    FAIL = "fail"
    """No VM can run, or none of those that a job asks for by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing, as it was found."""

    name: str
    level: Level
    detail: str
    advice: str | None = None
    """What to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryFacts:
    """A directory that the node writes to."""

    path: Path
    exists: bool
    is_writable: bool
    """By us; of a missing one: that it can be made."""
    space: DiskSpace | None = None
    """Of its file system, where it is writable."""
    closed: ClosedDirectory | None = None
    """A directory on the way to it that VMs' users cannot pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """VMs that no driver holds, by id."""

    removable: Sequence[str] = ()
    """The driver would remove them."""
    unmanaged: Sequence[str] = ()
    """They run."""
    unreadable: Sequence[str] = ()
    """They run, and their state cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KsmFacts:
    """What /sys/kernel/mm/ksm says."""

    is_running: bool
    pages_to_scan: int
    sleep_millisecs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UidRange:
    """User ids that belong to somebody."""

    owner: str
    first: int
    count: int = 1


def ok(name: str, detail: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name=name, level=Level.OK, detail=detail)


def warn(name: str, detail: str, advice: str | None) -> Check:
    """Return a check that found something that VMs can do without."""
    return Check(name=name, level=Level.WARN, detail=detail, advice=advice)


def fail(name: str, detail: str, advice: str | None) -> Check:
    """Return a check that found what keeps VMs from running."""
    return Check(name=name, level=Level.FAIL, detail=detail, advice=advice)


def check_python(version: tuple[int, int, int]) -> Check:
    """Judge the interpreter that runs this."""
    text = ".".join(str(part) for part in version)
    if version[:2] < OLDEST_PYTHON:
        return fail("Python", text, "install Python 3.11 or newer")
    return ok("Python", text)


def check_user(name: str, *, is_root: bool) -> Check:
    """Judge who runs this: the node's driver is root, a trial need not be."""
    if is_root:
        return ok("user", "root: every VM runs as a user of its own")
    return warn(
        "user",
        f"{name}: VMs run as this user and without limits",
        "fine for `qemu-node run`; to check the node itself, run this as root",
    )


def check_config(path: Path, *, exists: bool, problem: NodeError | None) -> Check:
    """Judge node.toml."""
    if problem is not None:
        return fail("node.toml", str(problem), problem.hint or "correct the file")
    return ok("node.toml", str(path) if exists else f"no {path}: the defaults are used")


def check_secrets(problems: Sequence[str]) -> Check:
    """Judge the files of `images.credentials`."""
    if problems:
        return warn(
            "secrets",
            "; ".join(problems),
            "each is a file of root's, mode 0600, with one line; see images.credentials",
        )
    return ok("secrets", "of images.credentials: all can be read")


def check_qemu(found: QemuBinary | NodeError) -> Check:
    """Judge the hypervisor."""
    if isinstance(found, NodeError):
        return fail("QEMU", str(found), found.hint)
    return ok("QEMU", f"{found.version}, {found.path}")


def check_accelerator(
    wanted: Literal["auto", "kvm", "tcg"],
    found: Hypervisor | NodeError | None,
    *,
    is_kvm_there: bool,
) -> Check:
    """Judge what executes guests; None: there is no QEMU to ask.

    `is_kvm_there` tells that /dev/kvm exists.
    """
    if found is None:
        return fail("accelerator", "not tried: there is no QEMU", None)
    if isinstance(found, NodeError):
        hint = found.hint or "see what QEMU says; `qemu-node -v doctor` tells more"
        return fail("accelerator", str(found), hint)
    if found.accelerator is Accelerator.KVM:
        return ok("accelerator", "KVM: a guest was seen to run")
    if wanted == "tcg":
        return ok("accelerator", "TCG, as node.toml asks for; guests are slow")
    advice = None  # Of a device that VMs may not open the problem says what helps.
    if not is_kvm_there:
        advice = (
            "switch on VT-x or AMD-V in the machine's firmware; if it is a VM itself, switch on "
            "nested virtualization in its hypervisor"
        )
    elif found.kvm_detail:
        advice = (
            "update kernel and microcode of this machine; if it is a VM itself, update its "
            "hypervisor"
        )
    what = "TCG is used, guests are slow"
    if found.is_kvm_lost:
        what = "KVM IS LOST: it ran guests here before, and now TCG is used, guests are slow"
    detail = f": {found.kvm_detail}" if found.kvm_detail else ""
    return warn("accelerator", f"{what}. {found.kvm_problem}{detail}", advice)


def check_firmware(
    mode: FirmwareMode, found: Firmware | NodeError | None, dirs: Sequence[Path]
) -> Check:
    """Judge what guests of a firmware mode boot from; the default mode is required."""
    name = mode.value
    if isinstance(found, NodeError):
        where = " or ".join(str(directory) for directory in dirs) or "no directory"
        detail = f"no firmware for it is described in {where}"
        make = fail if mode is FirmwareMode.SECURE_BOOT else warn
        return make(name, detail, found.hint)
    if found is None:
        return ok(name, "SeaBIOS, part of QEMU")
    return ok(name, str(found.code))


def check_program(name: str, path: str | None) -> Check:
    """Judge a program without which no VM starts; see `_PROGRAMS`."""
    if path is None:
        lost, package = _PROGRAMS[name]
        return fail(name, f"not installed: {lost}", f"apt install {package}")
    return ok(name, path)


def check_cgroup(controllers: Sequence[str] | None, *, is_root: bool) -> Check:
    """Judge cgroup v2; None: it is not mounted."""
    if controllers is None:
        advice = "boot with systemd.unified_cgroup_hierarchy=1" if is_root else None
        return warn("cgroup v2", "not mounted: VMs run without limits", advice)
    missing = [name for name in _CONTROLLERS if name not in controllers]
    if missing:
        return warn(
            "cgroup v2",
            f"without {', '.join(missing)}: VMs are not limited in this",
            "enable them in the parent's cgroup.subtree_control, or in the kernel",
        )
    return ok("cgroup v2", "all limits can be set")


def check_ksm(facts: KsmFacts | None, *, is_wanted: bool) -> Check:
    """Judge the merging of equal pages; None: the kernel has none."""
    if not is_wanted:
        return ok("KSM", "not asked for by node.toml")
    if facts is None:
        return warn("KSM", "this kernel has none", "use a kernel with CONFIG_KSM, such as Debian's")
    if not facts.is_running:
        return warn(
            "KSM",
            "off: equal pages of VMs are not merged",
            "echo 1 > /sys/kernel/mm/ksm/run",
        )
    return ok("KSM", f"on, {facts.pages_to_scan} pages every {facts.sleep_millisecs} ms")


def check_open_files(limit: int, *, is_driver: bool) -> Check:
    """Judge how many files the driver may open: its own limit, or what one started here would get.

    It raises its soft limit to the hard one.
    """
    whose = "the driver" if is_driver else "a driver started from here"
    vms = vms_within(limit)
    detail = f"{whose} may open {limit}: enough for about {vms} VMs"
    if vms < _FEW_VMS:
        return warn("open files", detail, "raise LimitNOFILE of the agent's service")
    return ok("open files", detail)


def check_data_dir(facts: DirectoryFacts, reserve: Share, advice: str) -> Check:
    """Judge where disks and images are; `advice` is for one that cannot be made or written.

    With no more than `reserve` free no VM starts.
    """
    if (problem := _directory_problem("data dir", facts, "paths.data", advice)) is not None:
        return problem
    end = "" if facts.exists else "; will be made"
    space = facts.space
    if space is None:
        return ok("data dir", f"{facts.path}, unknown free{end}")
    detail = f"{facts.path}, {format_size(space.free_bytes)} free{end}"
    if not space.has_room(0, reserve):
        kept = format_size(reserve.of(space.total_bytes))
        detail += f": the reserve of {kept} is reached, no VM starts and nothing is downloaded"
        return fail("data dir", detail, "free space, or set disk.reserve in node.toml")
    if space.free_bytes < _LOW_SPACE_BYTES:
        advice = "free space, or set paths.data to a larger file system"
        return warn("data dir", detail, advice)
    return ok("data dir", detail)


def check_run_dir(facts: DirectoryFacts, advice: str) -> Check:
    """Judge where sockets are; `advice` is for a directory that cannot be made."""
    if (problem := _directory_problem("run dir", facts, "paths.run", advice)) is not None:
        return problem
    return ok("run dir", str(facts.path) + ("" if facts.exists else "; will be made"))


def _directory_problem(name: str, facts: DirectoryFacts, setting: str, advice: str) -> Check | None:
    """Return what keeps VMs from using a directory, None if nothing does."""
    if not facts.is_writable:
        what = "may not be written" if facts.exists else "does not exist and cannot be made"
        return fail(name, f"{facts.path} {what}", advice)
    if facts.closed is not None:
        return fail(name, facts.closed.problem(setting), facts.closed.hint(setting))
    return None


def check_sockets(vm_run_dir: Path) -> Check:
    """Judge whether the kernel accepts the longest socket path of a VM."""
    longest = len(os.fsencode(vm_run_dir)) + 1 + VM_ID_MAX_BYTES + len("/monitor.sock")
    detail = f"paths of up to {longest} of {SUN_PATH_MAX_BYTES} bytes"
    if longest > SUN_PATH_MAX_BYTES:
        return fail("sockets", detail, "set a shorter paths.run in node.toml")
    return ok("sockets", detail)


def check_group(gid: int | None, *, is_root: bool) -> Check:
    """Judge the group that may use the sockets of VMs."""
    if not is_root:
        return ok("group", "not needed without root")
    if gid is None:
        return warn(
            "group",
            "no group qemu-node: only root can use the VMs' sockets",
            "groupadd --system qemu-node",
        )
    return ok("group", f"qemu-node is {gid}")


def check_uids(first: int, count: int, taken: Sequence[UidRange], *, is_root: bool) -> Check:
    """Judge the users that VMs run as: nobody else may be one of them."""
    if not is_root:
        return ok("VM users", "not needed without root")
    span = f"{first} to {first + count - 1}"
    others = [
        other.owner
        for other in taken
        if other.first < first + count and first < other.first + other.count
    ]
    if others:
        return warn(
            "VM users",
            f"{span} overlap with those of {', '.join(sorted(set(others))[:3])}",
            # Above what useradd (SUB_UID_MAX) and systemd-nspawn give to containers.
            "set qemu.first_uid in node.toml to a range that is free, such as 2000000000",
        )
    return ok("VM users", span)


def check_leftovers(found: Leftovers) -> Check:
    """Judge what no driver holds: VMs that run on, and what is left of others."""
    parts = []
    if found.unreadable:
        parts.append(f"{_running(found.unreadable)} whose state cannot be read")
    if found.unmanaged:
        parts.append(f"{_running(found.unmanaged)} without a driver")
    if found.removable:
        parts.append(f"{len(found.removable)} to be removed: {some(found.removable)}")
    if not parts:
        return ok("left-overs", "none")
    advice = "the driver recovers what runs and removes the rest within a minute of its start"
    if found.unreadable:
        advice = "upgrade the driver if a newer one started them; else they stay until they end"
    return warn("left-overs", "; ".join(parts), advice)


def _running(vm_ids: Sequence[str]) -> str:
    return f"{len(vm_ids)} running ({some(vm_ids)})"
