import asyncio
import logging

import pytest

from qemu_node.host.concurrency.tasks import TaskOwner


async def test_a_task_runs_and_its_result_can_be_awaited() -> None:
    async def seven() -> int:
        return 7

    async with TaskOwner() as owner:
        assert await owner.start(seven(), name="seven") == 7
        assert len(owner) == 0


async def test_a_failure_is_logged_with_the_name_and_hurts_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ValueError("broken")

    async with TaskOwner("vm") as owner:
        other = owner.start(asyncio.Event().wait(), name="other")
        failed = owner.start(fail(), name="reader")
        await asyncio.wait({failed})
        assert not other.done()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.__dict__["task"] == "reader"
    assert record.exc_info is not None


async def test_aclose_cancels_all_and_waits_until_they_have_cleaned_up() -> None:
    cleaned: list[int] = []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(number)

    owner = TaskOwner()
    for number in range(3):
        owner.start(work(number), name=str(number)).add_done_callback(lambda _: None)
    await asyncio.sleep(0)
    await owner.aclose()
    assert sorted(cleaned) == [0, 1, 2]
    assert len(owner) == 0


async def test_a_task_may_close_its_own_owner() -> None:
    owner = TaskOwner()
    went_on = asyncio.Event()

    async def closer() -> None:
        await owner.aclose()
        went_on.set()

    await owner.start(closer(), name="closer")
    assert went_on.is_set()


async def test_nothing_starts_after_the_close() -> None:
    async def never() -> None:
        raise AssertionError

    owner = TaskOwner("vm")
    await owner.aclose()
    with pytest.raises(RuntimeError, match="'late' started after its owner 'vm'"):
        await owner.start(never(), name="late")


async def test_a_cancelled_task_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async with TaskOwner() as owner:
        task = owner.start(asyncio.Event().wait(), name="waits")
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    assert not caplog.records
