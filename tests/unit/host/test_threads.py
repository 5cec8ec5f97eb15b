import asyncio
import threading

import pytest

from qemu_node.host.threads import to_the_end


async def test_cancellation_waits_for_the_thread() -> None:
    started, proceed, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        proceed.wait(30)
        ended.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(to_the_end(work))
        await asyncio.to_thread(started.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        proceed.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended.is_set()


async def test_failure_of_the_thread_is_raised() -> None:
    def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await to_the_end(work)
