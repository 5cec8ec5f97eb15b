from pathlib import Path

import pytest
from fakes.fake_qmp import FakeQmp
from fakes.published import VM_ID, make_record, publish

from qemu_node.config.node import Paths
from qemu_node.errors import NodeError
from qemu_node.inventory.reset import refusal, reset_guest
from qemu_node.qmp.events import RunState, StatusInfo


@pytest.mark.parametrize(
    ("state", "why", "hint"),
    [
        (RunState.RUNNING, None, None),
        (RunState.SHUTDOWN, "the guest powered off; a reset would lose that", "vm stop --now"),
        (RunState.GUEST_PANICKED, "the guest's kernel panicked", "vm stop --now"),
        (RunState.INTERNAL_ERROR, "internal error", "vm stop --now"),
        (RunState.WATCHDOG, "watchdog", "vm stop --now"),
        (RunState.IO_ERROR, "until the node's disk has room", "image gc"),
        (RunState.PAUSED, "QEMU says paused", "vm stop"),
        (RunState.PRELAUNCH, "QEMU says prelaunch", "vm stop"),
        (RunState.SUSPENDED, "QEMU says suspended", "vm stop"),
    ],
)
def test_only_a_guest_that_runs_is_reset(
    state: RunState, why: str | None, hint: str | None
) -> None:
    refused = refusal(StatusInfo(status=state, running=state is RunState.RUNNING), VM_ID)
    if why is None:
        assert refused is None
        return
    assert refused is not None
    assert why in str(refused)
    assert hint is not None
    assert hint in (refused.hint or "")


@pytest.fixture
def monitor(short_tmp_path: Path) -> Path:
    paths = Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))
    publish(paths, make_record(paths))
    return Path(make_record(paths).sockets.monitor)


@pytest.mark.parametrize("status", ["running", "shutdown"])
async def test_a_guest_is_asked_for_its_state_before_it_is_reset(
    short_tmp_path: Path, monitor: Path, status: str
) -> None:
    paths = Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))
    async with FakeQmp(monitor, status=status, replies={"system_reset": {}}) as qemu:
        if status == "running":
            await reset_guest(make_record(paths))
        else:
            with pytest.raises(NodeError, match="has ended"):
                await reset_guest(make_record(paths))
    asked = [request["execute"] for request in qemu.received]
    assert asked == ["query-status", "system_reset"][: 2 if status == "running" else 1]
