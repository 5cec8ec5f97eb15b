import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from qemu_node.cli.doctor import checks
from qemu_node.cli.doctor.checks import Check, DirectoryFacts, KsmFacts, Leftovers, Level, UidRange
from qemu_node.errors import ConfigError, MissingPartError
from qemu_node.host.files.directories import ClosedDirectory
from qemu_node.host.files.space import DiskSpace
from qemu_node.qemu.accel.qemubinary import QemuBinary
from qemu_node.qemu.firmware import Firmware
from qemu_node.qemu.spec import Accelerator, DiskAio, FirmwareMode, QemuVersion
from qemu_node.units import GIB, Share
from qemu_node.vm.hypervisor import Hypervisor

QEMU = QemuBinary(path="/usr/bin/qemu-system-x86_64", version=QemuVersion(major=10, minor=0))
FIRMWARE = Firmware(
    code=Path("/usr/share/OVMF/CODE.fd"),
    varstore_template=Path("/usr/share/OVMF/VARS.fd"),
    is_secure=True,
    descriptor=Path("/usr/share/qemu/firmware/40.json"),
)
MISSING = MissingPartError("it is missing", hint="apt install it")
FIVE_PCT = Share(pct=5)
DIRS = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))


def hypervisor(accelerator: Accelerator, problem: str | None = None) -> Hypervisor:
    return Hypervisor(
        binary=QEMU, accelerator=accelerator, kvm_problem=problem, aio=DiskAio.THREADS
    )


def directory(*, exists: bool = True, free: int | None = 100 * GIB) -> DirectoryFacts:
    space = None if free is None else DiskSpace(free_bytes=free, total_bytes=100 * GIB)
    return DirectoryFacts(path=Path("/data"), exists=exists, is_writable=True, space=space)


@pytest.mark.parametrize(
    ("check", "level"),
    [
        (checks.check_python((3, 13, 1)), Level.OK),
        (checks.check_python((3, 10, 9)), Level.FAIL),
        (checks.check_user("root", is_root=True), Level.OK),
        (checks.check_user("alice", is_root=False), Level.WARN),
        (checks.check_config(Path("/n"), exists=True, problem=None), Level.OK),
        (checks.check_config(Path("/n"), exists=False, problem=None), Level.OK),
        (checks.check_config(Path("/n"), exists=True, problem=ConfigError("bad")), Level.FAIL),
        (checks.check_secrets([]), Level.OK),
        (checks.check_secrets(["the secret /x cannot be read"]), Level.WARN),
        (checks.check_qemu(QEMU), Level.OK),
        (checks.check_qemu(MISSING), Level.FAIL),
        (checks.check_firmware(FirmwareMode.SECURE_BOOT, FIRMWARE, DIRS), Level.OK),
        (checks.check_firmware(FirmwareMode.SECURE_BOOT, MISSING, DIRS), Level.FAIL),
        (checks.check_firmware(FirmwareMode.UEFI, MISSING, DIRS), Level.WARN),
        (checks.check_firmware(FirmwareMode.BIOS, None, DIRS), Level.OK),
        (checks.check_program("setpriv", "/usr/bin/setpriv"), Level.OK),
        (checks.check_program("setpriv", None), Level.FAIL),
        (checks.check_program("qemu-img", None), Level.FAIL),
        (checks.check_cgroup(["cpu", "cpuset", "io", "memory", "pids"], is_root=True), Level.OK),
        (checks.check_cgroup(["cpu", "memory"], is_root=True), Level.WARN),
        (checks.check_cgroup(None, is_root=True), Level.WARN),
        (checks.check_ksm(None, is_wanted=True), Level.WARN),
        (checks.check_ksm(None, is_wanted=False), Level.OK),
        (checks.check_data_dir(directory(), FIVE_PCT, ""), Level.OK),
        (checks.check_data_dir(directory(exists=False), FIVE_PCT, ""), Level.OK),
        (checks.check_data_dir(directory(free=None), FIVE_PCT, ""), Level.OK),
        (checks.check_data_dir(directory(free=6 * GIB), FIVE_PCT, ""), Level.WARN),
        (checks.check_data_dir(directory(free=4 * GIB), FIVE_PCT, ""), Level.FAIL),
        (checks.check_data_dir(directory(free=1000), Share(), ""), Level.WARN),
        (checks.check_open_files(524288, is_driver=True), Level.OK),
        (checks.check_open_files(1024, is_driver=True), Level.WARN),
        (checks.check_open_files(1024, is_driver=False), Level.WARN),
        (checks.check_run_dir(directory(), ""), Level.OK),
        (checks.check_sockets(Path("/run/qemu-node/vm")), Level.OK),
        (checks.check_sockets(Path("/" + "r" * 70)), Level.FAIL),
        (checks.check_group(101, is_root=True), Level.OK),
        (checks.check_group(None, is_root=True), Level.WARN),
        (checks.check_group(None, is_root=False), Level.OK),
        (checks.check_leftovers(Leftovers()), Level.OK),
        (checks.check_leftovers(Leftovers(removable=["a-1"])), Level.WARN),
        (checks.check_leftovers(Leftovers(unmanaged=["b-1"])), Level.WARN),
        (checks.check_leftovers(Leftovers(unreadable=["c-1"])), Level.WARN),
    ],
)
def test_each_thing_is_judged_by_what_vms_lose_without_it(check: Check, level: Level) -> None:
    assert check.level is level
    assert check.detail
    assert level is Level.OK or check.advice, "what is wrong comes with what to do"


@pytest.mark.parametrize("name", ["data dir", "run dir"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_directory_that_cannot_be_written_keeps_vms_from_running(
    name: str, *, exists: bool
) -> None:
    facts = DirectoryFacts(path=Path("/x"), exists=exists, is_writable=False)
    is_data = name == "data dir"
    check = (
        checks.check_data_dir(facts, FIVE_PCT, "set paths.data")
        if is_data
        else checks.check_run_dir(facts, "set paths.run")
    )
    assert (check.name, check.level) == (name, Level.FAIL)
    assert "/x" in check.detail
    assert f"paths.{name.split()[0]}" in (check.advice or "")


@pytest.mark.parametrize(
    ("wanted", "found", "level", "said"),
    [
        ("auto", hypervisor(Accelerator.KVM), Level.OK, "KVM"),
        ("auto", hypervisor(Accelerator.TCG, "KVM said: no"), Level.WARN, "KVM said: no"),
        ("tcg", hypervisor(Accelerator.TCG), Level.OK, "as node.toml asks"),
        ("kvm", MissingPartError("KVM said: no"), Level.FAIL, "KVM said: no"),
        ("auto", None, Level.FAIL, "no QEMU"),
    ],
)
def test_a_kvm_that_exists_and_does_not_work_is_told_in_qemus_words(
    wanted: Literal["auto", "kvm", "tcg"],
    found: Hypervisor | MissingPartError | None,
    level: Level,
    said: str,
) -> None:
    check = checks.check_accelerator(wanted, found, is_kvm_there=True)
    assert check.level is level
    assert said in check.detail


def test_a_kvm_that_is_lost_is_told_first_and_in_qemus_words() -> None:
    found = dataclasses.replace(
        hypervisor(Accelerator.TCG, "/dev/kvm exists but does not run guests"),
        kvm_detail="QEMU was killed by SIGABRT",
        is_kvm_lost=True,
    )
    check = checks.check_accelerator("auto", found, is_kvm_there=True)
    assert check.level is Level.WARN
    assert "update kernel" in (check.advice or "")
    assert check.detail.startswith("KVM IS LOST")
    assert check.detail.endswith("does not run guests: QEMU was killed by SIGABRT")


def test_a_directory_that_vms_cannot_pass_is_named_with_the_mode_it_needs() -> None:
    closed = ClosedDirectory(path=Path("/srv/closed"), mode=0o700)
    facts = dataclasses.replace(directory(), closed=closed)
    for check in (checks.check_data_dir(facts, FIVE_PCT, ""), checks.check_run_dir(facts, "")):
        assert check.level is Level.FAIL
        assert "/srv/closed (mode 0700)" in check.detail
        assert "chmod 0711 /srv/closed" in (check.advice or "")


def test_a_kvm_that_this_user_may_not_open_needs_no_other_machine() -> None:
    found = hypervisor(Accelerator.TCG, "you may not open it: join the group")
    check = checks.check_accelerator("auto", found, is_kvm_there=True)
    assert check.advice is None
    assert "join the group" in check.detail


def test_a_kvm_that_does_not_exist_is_to_be_switched_on_in_the_firmware() -> None:
    found = hypervisor(Accelerator.TCG, "/dev/kvm does not exist")
    check = checks.check_accelerator("auto", found, is_kvm_there=False)
    assert "VT-x or AMD-V" in (check.advice or "")


def test_firmware_that_is_missing_comes_with_its_package_and_where_it_was_looked_for() -> None:
    check = checks.check_firmware(FirmwareMode.SECURE_BOOT, MISSING, DIRS)
    assert check.advice == "apt install it"
    assert "/etc/qemu/firmware or /usr/share/qemu/firmware" in check.detail


@pytest.mark.parametrize(("is_running", "level"), [(True, Level.OK), (False, Level.WARN)])
def test_ksm_that_is_off_merges_nothing(*, is_running: bool, level: Level) -> None:
    facts = KsmFacts(is_running=is_running, pages_to_scan=100, sleep_millisecs=20)
    assert checks.check_ksm(facts, is_wanted=True).level is level


@pytest.mark.parametrize(
    ("taken", "level"),
    [
        (UidRange(owner="alice", first=199_999), Level.OK),
        (UidRange(owner="alice", first=210_000), Level.OK),
        (UidRange(owner="alice", first=200_000), Level.WARN),
        (UidRange(owner="alice", first=209_999), Level.WARN),
        (UidRange(owner="alice", first=165_536, count=65_536), Level.WARN),
        (UidRange(owner="alice", first=100_000, count=65_536), Level.OK),
    ],
)
def test_nobody_else_may_have_a_vms_user_id(taken: UidRange, level: Level) -> None:
    check = checks.check_uids(200_000, 10_000, [taken], is_root=True)
    assert check.level is level
    assert (taken.owner in check.detail) is (level is Level.WARN)
    assert ("such as 2000000000" in (check.advice or "")) is (level is Level.WARN)


def test_many_leftovers_are_counted_and_a_few_named() -> None:
    many = [f"vm-{n}" for n in range(9)]
    check = checks.check_leftovers(
        Leftovers(removable=many, unmanaged=["web-1"], unreadable=["new-1"])
    )
    assert check.detail == (
        "1 running (new-1) whose state cannot be read; 1 running (web-1) without a driver; "
        "9 to be removed: vm-0, vm-1, vm-2 and 6 more"
    )
