import asyncio

import pytest

from qemu_node.host.concurrency.flag import Flag


async def test_wait_returns_at_once_where_it_is_set() -> None:
    flag = Flag()
    flag.set()
    await flag.wait()
    assert flag.is_set()


async def test_all_waiters_are_woken_by_one_set() -> None:
    flag = Flag()
    waiting = [asyncio.ensure_future(flag.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    flag.set()
    await asyncio.gather(*waiting)


async def test_a_waiter_is_woken_although_the_flag_is_cleared_at_once() -> None:
    flag = Flag()
    waiting = asyncio.ensure_future(flag.wait())
    await asyncio.sleep(0)
    flag.set()
    flag.clear()
    await waiting
    assert not flag.is_set()


async def test_a_cancelled_waiter_leaves_the_others_waiting() -> None:
    flag = Flag()
    first, second = (asyncio.ensure_future(flag.wait()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not second.done()
    flag.set()
    await second


async def test_a_waiter_that_is_cancelled_when_it_is_woken_takes_nothing_from_the_next() -> None:
    flag = Flag()
    woken = asyncio.ensure_future(flag.wait())
    await asyncio.sleep(0)
    flag.set()
    flag.clear()
    woken.cancel()
    later = asyncio.ensure_future(flag.wait())
    with pytest.raises(asyncio.CancelledError):
        await woken
    flag.set()
    await later


async def test_cancelled_waiters_are_forgotten() -> None:
    flag = Flag()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await flag.wait()
    assert flag._waiters == []
