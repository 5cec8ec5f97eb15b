"""A VM's life with a real QEMU and a guest that boots: start, watch, stop, recovery, removal."""

import asyncio
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from integration.vmnode import WAIT_S, VMNode

from qemu_node.config.node import QemuConfig
from qemu_node.errors import HostError, ImageError, JobError, NodeError
from qemu_node.host.process import command, identity, pidfd
from qemu_node.qemu.spec import FirmwareMode
from qemu_node.qmp import commands as qmp_commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.vm.life.machine import VM
from qemu_node.vm.record.directory import VMBusyError, VMDirectory
from qemu_node.vm.record.outcome import POWERED_OFF, guest_end_of_status

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(600)]

READY = "small guest ready"


@pytest.fixture
def image(small_guest_image: Path) -> Path:
    return small_guest_image


async def stopped(vm: VM, timeout_s: float) -> None:
    async with asyncio.timeout(120):
        await vm.stop(timeout_s)


async def test_a_guest_boots_under_secure_boot_answers_and_shuts_down_cleanly(
    node: VMNode,
) -> None:
    vm = await node.start(node.request(firmware=FirmwareMode.SECURE_BOOT))
    log = await node.printed(READY)
    assert "secure_boot=yes" in log
    assert f"host={vm.record.hostname}" in log
    assert "\x1b" not in log
    await vm.agent.ping(timeout_s=60)
    result = await vm.agent.run(["/bin/sh", "-c", "echo hello; exit 3"], timeout_s=60)
    assert (result.exit_code, result.stdout) == (3, b"hello\n")
    await stopped(vm, 60)
    assert vm.exit == POWERED_OFF
    await node.supervisor.destroy(vm)
    assert node.leftovers() == []


async def test_a_guest_without_an_agent_is_stopped_by_its_power_button(node: VMNode) -> None:
    vm = await node.start(
        node.request(user_data="#!/bin/sh\nwhile :; do echo stuck; sleep 1; done\n")
    )
    await node.printed("stuck")
    await stopped(vm, 60)
    assert vm.exit == POWERED_OFF
    assert "power button" in await node.printed("power button")


async def test_a_guest_that_refuses_everything_is_gone_when_the_timeout_ends(
    node: VMNode,
) -> None:
    refuse = "#!/bin/sh\nprintf '#!/bin/sh\\n' >/sbin/shutdown\nrm -f /etc/acpi/power\n"
    vm = await node.start(node.request(user_data=refuse))
    await node.printed(READY)
    await stopped(vm, 8)
    assert vm.exit is not None
    assert not identity.is_alive(vm.process)


async def test_a_power_off_inside_the_guest_is_exit_code_0(node: VMNode) -> None:
    vm = await node.start(node.request(user_data="#!/bin/sh\npoweroff -f\n"))
    assert await node.ended(vm) == POWERED_OFF


async def test_a_reboot_inside_the_guest_is_no_exit(node: VMNode) -> None:
    vm = await node.start(
        node.request(user_data="#!/bin/sh\n[ -e /run/no ] || { (sleep 3; reboot -f) & }\n")
    )
    await node.printed(READY, times=2)
    assert vm.exit is None


async def test_a_panic_is_a_failure_with_its_reason(node: VMNode) -> None:
    vm = await node.start(node.request(user_data="#!/bin/sh\necho c >/proc/sysrq-trigger\n"))
    outcome = await node.ended(vm)
    assert outcome.exit_code == 1
    assert outcome.reason
    assert "panic" in outcome.reason


async def test_a_crash_of_qemu_is_a_failure_with_its_signal(node: VMNode) -> None:
    vm = await node.start(node.request())
    pidfd.send_signal(vm.process, signal.SIGSEGV)
    outcome = await node.ended(vm)
    assert (outcome.exit_code, outcome.signal) == (139, signal.SIGSEGV)


async def test_a_new_driver_adopts_a_running_vm_untouched(node: VMNode) -> None:
    vm = await node.start(node.request())
    await node.printed(READY)
    second = await node.restarted()
    try:
        adopted = await second.supervisor.recover(vm.state)
        assert adopted.process == vm.process
        assert identity.is_alive(adopted.process)
        assert await second.supervisor.recover(vm.state) is adopted
        await stopped(adopted, 60)
        assert adopted.exit == POWERED_OFF
    finally:
        await second.close()
    assert second.leftovers() == []


async def test_a_vm_that_is_stopped_as_soon_as_it_is_recovered_is_asked_first(
    node: VMNode,
) -> None:
    vm = await node.start(
        node.request(user_data="#!/bin/sh\nwhile :; do echo stuck; sleep 1; done\n")
    )
    await node.printed("stuck")
    second = await node.restarted()
    try:
        # No agent answers, so the power button needs the control socket.
        adopted = await second.supervisor.recover(vm.state)
        await stopped(adopted, 60)
        assert adopted.exit == POWERED_OFF
    finally:
        await second.close()


@pytest.mark.parametrize(
    ("user_data", "exit_code", "reason"),
    [
        ("#!/bin/sh\nsleep 2; poweroff -f\n", 0, None),
        ("#!/bin/sh\nsleep 2; echo c >/proc/sysrq-trigger\n", 1, "panic"),
    ],
)
async def test_an_end_while_no_driver_was_there_is_reported_as_it_was(
    node: VMNode, user_data: str, exit_code: int, reason: str | None
) -> None:
    vm = await node.start(node.request(user_data=user_data))
    second = await node.restarted()
    try:
        await until_guest_ended(vm)
        adopted = await second.supervisor.recover(vm.state)
        outcome = await second.ended(adopted)
    finally:
        await second.close()
    assert outcome.exit_code == exit_code
    assert (reason is None) == (outcome.reason is None)
    assert (reason or "") in (outcome.reason or "")


async def until_guest_ended(vm: VM) -> None:
    """Wait for the guest's end as anyone may see it, without telling the driver."""
    monitor = await QmpConnection.connect(Path(vm.record.sockets.monitor))
    try:
        async with asyncio.timeout(WAIT_S):
            while guest_end_of_status(await qmp_commands.query_status(monitor)) is None:
                await asyncio.sleep(0.2)
    finally:
        await monitor.close()


async def test_a_crash_while_no_driver_was_there_is_a_failure(node: VMNode) -> None:
    vm = await node.start(node.request())
    second = await node.restarted()
    try:
        pidfd.send_signal(vm.process, signal.SIGKILL)
        await pidfd.wait_gone(vm.process)
        adopted = await second.supervisor.recover(vm.state)
        outcome = await second.ended(adopted)
    finally:
        await second.close()
    assert outcome.exit_code == 1
    assert "while the driver was away" in (outcome.reason or "")


async def test_a_recovered_vm_that_is_killed_is_told_as_killed_and_not_as_missed(
    node: VMNode,
) -> None:
    vm = await node.start(node.request())
    second = await node.restarted()
    try:
        adopted = await second.supervisor.recover(vm.state)
        pidfd.send_signal(vm.process, signal.SIGKILL)
        outcome = await second.ended(adopted)
    finally:
        await second.close()
    assert outcome.exit_code == 1
    assert (outcome.reason or "").startswith("QEMU crashed or was killed")


@pytest.mark.parametrize(("kills", "is_oom"), [(4, True), (3, False)])
async def test_an_oom_kill_while_no_driver_was_there_is_told_as_one(
    node: VMNode, tmp_path: Path, kills: int, *, is_oom: bool
) -> None:
    # Files that look like Nomad's scope of the task, in which a VM was killed three times before.
    scope = tmp_path / "vm.scope"
    scope.mkdir()
    for name in ("cgroup.controllers", "cgroup.procs"):
        (scope / name).touch()
    vm = await node.start(node.request())
    assert vm.state.oom_kills == 0
    state = msgspec.structs.replace(vm.state, scope=str(scope), oom_kills=3)
    second = await node.restarted()
    try:
        (scope / "memory.events").write_text(f"oom 9\noom_kill {kills}\n")
        pidfd.send_signal(vm.process, signal.SIGKILL)
        await pidfd.wait_gone(vm.process)
        outcome = await second.ended(await second.supervisor.recover(state))
    finally:
        await second.close()
    assert outcome.oom_killed is is_oom
    assert ("out of memory" in (outcome.reason or "")) is is_oom


async def test_two_drivers_cannot_manage_one_vm(node: VMNode) -> None:
    vm = await node.start(node.request())
    second = VMNode(node.root, node.image)
    try:
        with pytest.raises(VMBusyError):
            await second.supervisor.recover(vm.state)
        assert await second.supervisor.reconcile() == []
        assert identity.is_alive(vm.process)
    finally:
        await second.close()


async def test_a_left_over_vm_of_the_same_task_is_replaced(node: VMNode) -> None:
    first = await node.start(node.request())
    second = await node.restarted()
    try:
        vm = await second.start(second.request())
        assert not identity.is_alive(first.process)
        assert identity.is_alive(vm.process)
    finally:
        await second.close()


async def test_a_vm_outlives_a_wiped_run_directory(node: VMNode) -> None:
    vm = await node.start(node.request())
    await node.printed(READY)
    second = await node.restarted()
    shutil.rmtree(node.paths.run_dir)
    try:
        adopted = await second.supervisor.recover(vm.state)
        assert adopted.directory.vm_json.exists()
        assert adopted.exit is None
        await stopped(adopted, 4)
        assert not identity.is_alive(vm.process)
    finally:
        await second.close()
    assert second.leftovers() == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"memory_mib": 1}, JobError),
        ({"args": ("-device", "pvpanic")}, JobError),
    ],
)
async def test_a_start_that_fails_leaves_nothing(
    node: VMNode, changes: dict[str, object], error: type[NodeError]
) -> None:
    with pytest.raises(error):
        await node.start(node.request(**changes))  # type: ignore[arg-type]
    assert node.leftovers() == []


async def test_an_image_that_is_unsafe_leaves_nothing(node: VMNode, short_tmp_path: Path) -> None:
    hostile = short_tmp_path / "hostile.qcow2"
    await command.run(
        ["qemu-img", "create", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", str(hostile), "1M"]
    )
    request = node.request()
    target = request.task_dir / "local" / "hostile.qcow2"
    shutil.copy(hostile, target)
    with pytest.raises(ImageError, match="backing"):
        await node.start(replace(request, image="local/hostile.qcow2"))
    assert node.leftovers() == []


async def test_qemu_that_refuses_to_start_is_quoted(node: VMNode) -> None:
    allowed = QemuConfig(allow_args=("-device usb-kbd,bus=nonsense",))
    broken = VMNode(node.root, node.image, qemu=allowed)
    with pytest.raises(HostError, match="nonsense"):
        await broken.start(broken.request(args=("-device", "usb-kbd,bus=nonsense")))
    assert broken.leftovers() == []
    await broken.close()


async def test_two_starts_of_one_task_at_once_give_one_vm(node: VMNode) -> None:
    second = VMNode(node.root, node.image)
    try:
        results = await asyncio.gather(
            node.start(node.request()), second.start(second.request()), return_exceptions=True
        )
        started = [result for result in results if isinstance(result, VM)]
        refused = [result for result in results if isinstance(result, VMBusyError)]
        assert (len(started), len(refused)) == (1, 1), results
    finally:
        await second.close()


@pytest.mark.needs_root
async def test_every_vm_runs_as_a_user_of_its_own_without_privileges(node: VMNode) -> None:
    vms = [await node.start(node.request(task=task)) for task in ("one", "two")]
    uids = set()
    for vm in vms:
        status = Path(f"/proc/{vm.process.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        uids.add(fields["Uid"].split()[0])
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
        assert os.getsid(vm.process.pid) == vm.process.pid
    assert len(uids) == 2
    assert "0" not in uids


@pytest.mark.needs_root
async def test_a_vms_user_has_its_own_files_and_reads_none_of_another_vm(node: VMNode) -> None:
    requests = [node.request(task=task, firmware=FirmwareMode.UEFI) for task in ("one", "two")]
    vm, other = [await node.start(request) for request in requests]
    own = vm.directory
    files = {own.overlay, own.varstore, own.serial_log, own.run / "vnc.sock"}
    assert await accessible(vm, own, "-w") == files | {own.run}
    assert await accessible(vm, own, "-O") == files | {own.config_drive}
    published = {other.directory.base, other.directory.vm_json, other.directory.usage_json}
    readable = await accessible(vm, other.directory, "-r")
    assert {path for path in readable if path.is_file()} <= published


async def accessible(vm: VM, directory: VMDirectory, access: str) -> set[Path]:
    """Return what the user of `vm` may use in `directory`; `access` as test(1) has it."""
    paths = [directory.data, directory.run, *directory.data.iterdir(), *directory.run.iterdir()]
    script = f'for path; do if [ {access} "$path" ]; then echo "$path"; fi; done'
    done = await command.run(
        ["setpriv", f"--reuid={vm.state.uid}", f"--regid={vm.state.uid}", "--clear-groups",
         "sh", "-c", script, "sh", *map(str, paths)]
    )  # fmt: skip
    return {Path(line) for line in done.stdout.decode().splitlines()}
