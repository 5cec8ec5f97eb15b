"""A start that is cancelled, or fails, wherever that may happen: nothing of it is left."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable
from typing import Self

import pytest
from fakes.cancelling import CancelledAt, Moment
from integration.vmnode import VMNode

from qemu_node.errors import HostError
from qemu_node.qemu.spec import FirmwareMode
from qemu_node.vm import supervisor
from qemu_node.vm.life.machine import VM
from qemu_node.vm.start import steps as startsteps
from qemu_node.vm.start.steps import StartStep

pytestmark = [pytest.mark.needs_qemu]


class _AtStep(logging.Handler):
    """Does something when a start has come to a step."""

    def __init__(self, step: StartStep, act: Callable[[], object]) -> None:
        super().__init__()
        self._step = step
        self._act = act

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "start step" and record.__dict__["step"] == self._step:
            self._act()

    def __enter__(self) -> Self:
        logger = logging.getLogger(startsteps.__name__)
        logger.addHandler(self)
        logger.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger(startsteps.__name__)
        logger.removeHandler(self)
        logger.setLevel(logging.NOTSET)


async def start_or_nothing(node: VMNode, start: "asyncio.Task[VM]") -> None:
    """Wait for a start that was cancelled; it leaves nothing, or a VM that is there."""
    try:
        vm = await start
    except asyncio.CancelledError:
        pass
    else:
        # The cancellation came when nothing was left to be waited for.
        assert node.running() == {vm.record.vm_id}
        await node.supervisor.destroy(vm)
    assert node.leftovers() == []
    assert node.running() == set()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("step", StartStep)
async def test_a_start_that_is_cancelled_at_a_step_leaves_nothing(
    node: VMNode, step: StartStep, times: int
) -> None:
    start = asyncio.ensure_future(node.start(node.request(firmware=FirmwareMode.UEFI)))

    def cancel(times: int) -> None:
        start.cancel()
        if times > 1:
            # While it is undoing.
            asyncio.get_running_loop().call_soon(cancel, times - 1)

    with _AtStep(step, lambda: asyncio.get_running_loop().call_soon(cancel, times)):
        await start_or_nothing(node, start)


@pytest.mark.parametrize("step", StartStep)
async def test_a_start_that_fails_at_a_step_leaves_nothing(node: VMNode, step: StartStep) -> None:
    def fail() -> None:
        raise HostError("the test's")

    with _AtStep(step, fail), pytest.raises(HostError, match="the test's"):
        await node.start(node.request(firmware=FirmwareMode.UEFI))
    assert node.leftovers() == []
    assert node.running() == set()


@pytest.mark.parametrize("moment", Moment)
async def test_a_start_that_is_cancelled_at_any_await_leaves_nothing(
    node: VMNode, moment: Moment
) -> None:
    for at in itertools.count(1):
        steps = CancelledAt(node.start(node.request()), (at, at + 1), moment)
        await start_or_nothing(node, asyncio.ensure_future(steps))
        if steps.awaits < at:
            break


@pytest.mark.parametrize("moment", Moment)
async def test_a_recovery_that_is_cancelled_at_any_await_can_be_done_again(
    node: VMNode, moment: Moment, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as it takes where nobody holds the lock.
    monkeypatch.setattr(supervisor, "_RECOVER_LOCK_TIMEOUT_S", 0.0)
    state = (await node.start(node.request())).state
    for at in itertools.count(1):
        await node.crash()
        node = VMNode(node.root, node.image)
        steps = CancelledAt(node.supervisor.recover(state), (at, at + 1), moment)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.ensure_future(steps)
        vm = await node.supervisor.recover(state)
        assert vm.exit is None
        if steps.awaits < at:
            break
    await node.close()
