import asyncio

import pytest

from qemu_node.host.limits import OpenFiles
from qemu_node.net.portspec import PortSpec
from qemu_node.vm.admission import BASE_RESERVE, FILES_OF_A_STOP, Admission, OpenFilesError

PORT = PortSpec(
    vm_id="web-0123456789ab", index=0, ifname="qn0", mac="02:00:00:00:00:01", vlan=30, queues=8
)


def admission(*, used: int, limit: int = 1024, vms: int = 0, at_once: int = 100) -> Admission:
    files = OpenFiles(used=used, limit=limit)
    return Admission(lambda: vms, read=lambda: files, at_once=at_once)


def test_a_start_that_leaves_the_reserve_may_go_on() -> None:
    admission(used=40).check()


def test_a_start_that_would_take_the_reserve_is_refused_with_the_figures_and_a_retry() -> None:
    with pytest.raises(OpenFilesError, match="950 of 1024 files are open, and 64 are kept") as told:
        admission(used=950).check()
    assert told.value.retry
    assert told.value.hint is not None
    assert "LimitNOFILE" in told.value.hint


def test_the_reserve_grows_with_the_vms_that_are_to_be_stopped() -> None:
    vms = 100
    limit = 40 + BASE_RESERVE + FILES_OF_A_STOP * vms
    with pytest.raises(OpenFilesError):
        admission(used=40, limit=limit, vms=vms).check()
    admission(used=40, limit=limit + 100, vms=vms).check()


def test_the_queues_of_its_nics_count() -> None:
    just_enough = 64 + 17
    admission(used=0, limit=just_enough).check()
    with pytest.raises(OpenFilesError):
        admission(used=0, limit=just_enough).check((PORT,))


def test_a_process_that_cannot_open_one_more_file_starts_nothing() -> None:
    def read() -> OpenFiles:
        raise OSError(24, "Too many open files")

    with pytest.raises(OpenFilesError, match="all files that the driver may open are open"):
        Admission(lambda: 0, read=read).check()


async def test_starts_at_the_same_time_do_not_take_the_same_files() -> None:
    both = admission(used=0, limit=64 + 16 + 10)
    async with both.turn(()):
        with pytest.raises(OpenFilesError):
            async with both.turn(()):
                pass
    async with both.turn(()):
        pass


async def test_a_few_starts_go_on_at_once_and_the_next_when_one_is_over() -> None:
    entered: list[str] = []
    over = {name: asyncio.Event() for name in "abc"}
    turns = admission(used=0, at_once=2)

    async def start(name: str) -> None:
        async with turns.turn(()):
            entered.append(name)
            await over[name].wait()

    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(start(name)) for name in "abc"}
        over["a"].set()
        await tasks["a"]
        over["c"].set()
        await tasks["c"]
        assert entered == ["a", "b", "c"]
        over["b"].set()


async def test_a_start_that_is_cancelled_while_it_waits_keeps_no_turn() -> None:
    turns = admission(used=0, at_once=1)
    async with turns.turn(()):
        waiting = asyncio.ensure_future(turns.turn(()).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
    async with turns.turn(()):
        pass
