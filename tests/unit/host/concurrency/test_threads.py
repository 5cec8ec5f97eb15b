import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from qemu_node.host.concurrency.threads import Worker, acquire_in_thread, to_the_end

PATIENCE_S = 30.0


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker("test")
    yield made
    made.close()


async def assert_a_cancelled_task_waits_for_its_thread(
    to_the_end: Callable[[Callable[[], None]], Coroutine[Any, Any, None]], *, cancellations: int
) -> None:
    started, proceed, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        proceed.wait(PATIENCE_S)
        ended.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(to_the_end(work))
        await asyncio.to_thread(started.wait, PATIENCE_S)
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        proceed.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended.is_set()


@pytest.mark.parametrize("cancellations", [1, 2, 3])
async def test_however_often_it_is_cancelled_a_task_waits_for_its_thread(
    cancellations: int,
) -> None:
    await assert_a_cancelled_task_waits_for_its_thread(to_the_end, cancellations=cancellations)


async def test_failure_of_the_thread_is_raised() -> None:
    def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await to_the_end(work)


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_what_a_cancellation_keeps_from_the_caller_is_released(*, is_cancelled: bool) -> None:
    started, proceed = threading.Event(), threading.Event()
    released: list[str] = []

    def acquire(name: str) -> str:
        started.set()
        proceed.wait(PATIENCE_S)
        return name

    async with asyncio.TaskGroup() as group:
        task = group.create_task(acquire_in_thread(acquire, released.append, "a lease"))
        await asyncio.to_thread(started.wait, PATIENCE_S)
        if is_cancelled:
            task.cancel()
        proceed.set()
        await asyncio.wait({task})
    assert task.cancelled() is is_cancelled
    assert released == (["a lease"] if is_cancelled else [])


async def test_a_worker_does_all_calls_in_one_thread_in_the_order_in_which_they_came(
    worker: Worker,
) -> None:
    done: list[int] = []
    threads = set()

    def work(number: int) -> int:
        threads.add(threading.get_ident())
        done.append(number)
        return number

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(worker.to_the_end(work, number)) for number in range(20)]
    assert [task.result() for task in tasks] == done == list(range(20))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_however_often_it_is_cancelled_a_task_waits_for_its_worker(worker: Worker) -> None:
    await assert_a_cancelled_task_waits_for_its_thread(worker.to_the_end, cancellations=2)


async def test_a_deadline_that_passes_meanwhile_is_told_when_the_worker_has_ended(
    worker: Worker,
) -> None:
    proceed = threading.Event()
    loop = asyncio.get_running_loop()

    async def wait_for_it() -> None:
        async with asyncio.timeout(0.001):
            # Some time after the deadline, whenever that is.
            loop.call_later(0.05, proceed.set)
            await worker.to_the_end(proceed.wait, PATIENCE_S)

    with pytest.raises(TimeoutError):
        await wait_for_it()
    assert proceed.is_set()


async def test_a_failure_in_a_worker_is_raised_and_the_next_call_is_done(worker: Worker) -> None:
    def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await worker.to_the_end(work)
    with pytest.raises(ValueError, match="no"):
        worker.start(work).result(PATIENCE_S)
    assert await worker.to_the_end(int, "7") == 7


def test_what_a_worker_was_started_on_goes_on_beside_its_caller(worker: Worker) -> None:
    proceed = threading.Event()
    future = worker.start(proceed.wait, PATIENCE_S)
    assert not future.done()
    proceed.set()
    assert future.result(PATIENCE_S)


async def test_a_future_of_a_worker_that_is_given_up_does_not_end_it(worker: Worker) -> None:
    proceed = threading.Event()
    futures = [worker.start(proceed.wait, PATIENCE_S) for _ in range(2)]
    for future in futures:
        future.cancel()
    proceed.set()
    assert await worker.to_the_end(int, "7") == 7


async def test_a_closed_worker_has_no_thread_and_starts_another_when_it_is_called(
    worker: Worker,
) -> None:
    first = await worker.to_the_end(threading.current_thread)
    worker.close()
    worker.close()
    assert not first.is_alive()
    assert await worker.to_the_end(threading.current_thread) is not first
