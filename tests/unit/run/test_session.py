import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fakes.fake_task_driver import FakeTaskDriver

from qemu_node.errors import JobError, MissingPartError
from qemu_node.run.allocation.placement import Placement, place
from qemu_node.run.driverlink import TaskEnd, TaskEvent
from qemu_node.run.guestwatch import AgentWatch, GuestFacts
from qemu_node.run.jobfile.job import job_from_api
from qemu_node.run.runevents import EventKind, RunEvent
from qemu_node.run.session import Session, SessionOptions, SessionResult
from qemu_node.vm.record.record import VMRecord

FACTS = GuestFacts(host_name="web-0", addresses=("10.0.2.15",), secure_boot=True)
FAST = SessionOptions(poll_s=0.01)


class FakeWatch(AgentWatch):
    def __init__(self, answers: list[GuestFacts | None]) -> None:
        self._answers = answers

    async def look(self) -> GuestFacts | None:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def placements(count: int = 2, **config: object) -> list[Placement]:
    task = {"Name": "vm", "Driver": "vm", "KillTimeout": "7s",
            "Config": {"image": "x.qcow2"} | config}  # fmt: skip
    job = {"ID": "web", "TaskGroups": [{"Name": "g", "Count": count, "Tasks": [task]}]}
    return place(job_from_api(job, "job.json"), free_ports=lambda _: [], cpus=[0])


class Bench:
    """A session on a fake driver, and what it told."""

    def __init__(
        self,
        tmp_path: Path,
        driver: FakeTaskDriver,
        placed: list[Placement],
        *,
        answers: list[GuestFacts | None] | None = None,
        options: SessionOptions = FAST,
    ) -> None:
        self.events: list[RunEvent] = []
        self.driver = driver
        self.placed = placed
        self.session_dir = tmp_path / "session"
        self.session_dir.mkdir()
        self.session = Session(
            driver,
            placed,
            session_dir=self.session_dir,
            node_id="n",
            vm_run_dir=tmp_path / "run",
            watch=lambda record: self._watch(record, answers),
            on_event=self.events.append,
            options=options,
        )

    def _watch(self, record: VMRecord, answers: list[GuestFacts | None] | None) -> FakeWatch:
        return FakeWatch(list(answers or [None]))

    def kinds(self, vm: str | None = None) -> list[EventKind]:
        return [event.kind for event in self.events if vm is None or event.vm == vm]

    def messages(self, kind: EventKind) -> list[str]:
        return [event.message for event in self.events if event.kind is kind]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.005)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["asyncio.Task[SessionResult]"]:
        """Run the session until all its VMs run, then the block, then to its end."""
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            task = group.create_task(self.session.run())
            count = len(self.placed)
            await self.until(lambda: self.kinds().count(EventKind.RUNNING) == count or task.done())
            yield task


def make_driver(tmp_path: Path, **options: object) -> FakeTaskDriver:
    return FakeTaskDriver(tmp_path / "run", **options)  # type: ignore[arg-type]


async def test_vms_that_power_off_end_the_session_well(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_driver(tmp_path), placements())
    async with bench.running() as task:
        for task_id in bench.driver.tasks:
            bench.driver.end(task_id, TaskEnd(exit_code=0))
    assert task.result() == SessionResult(failed=(), was_forced=False)
    assert bench.messages(EventKind.EXITED) == ["powered off", "powered off"]
    assert sorted(bench.driver.destroyed) == sorted(p.task_id for p in bench.placed)


async def test_a_failed_vm_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_driver(tmp_path), placements())
    async with bench.running() as task:
        first, second = bench.placed
        bench.driver.end(first.task_id, TaskEnd(exit_code=1, reason="guest panicked"))
        await bench.until(lambda: EventKind.FAILED in bench.kinds(first.vm))
        assert not task.done()
        bench.driver.end(second.task_id, TaskEnd(exit_code=0))
    assert task.result().failed == (first.vm,)
    assert bench.messages(EventKind.FAILED) == ["exit code 1: guest panicked"]


async def test_one_stop_stops_all_within_their_kill_timeout(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_driver(tmp_path), placements())
    async with bench.running() as task:
        bench.session.request_stop()
    assert task.result() == SessionResult(failed=(), was_forced=False)
    assert [timeout_s for _, timeout_s in bench.driver.stopped] == [7.0, 7.0]
    assert bench.messages(EventKind.EXITED) == ["stopped", "stopped"]


async def test_a_second_stop_does_not_wait_for_the_first(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_driver(tmp_path, ignores_gentle_stop=True), placements())
    async with bench.running() as task:
        bench.session.request_stop()
        await bench.until(lambda: len(bench.driver.stopped) == 2)
        bench.session.request_stop()
    assert task.result() == SessionResult(failed=(), was_forced=True)
    assert sorted(timeout_s for _, timeout_s in bench.driver.stopped) == [0, 0, 7.0, 7.0]
    assert bench.messages(EventKind.EXITED) == ["stopped by force", "stopped by force"]


async def test_a_stop_that_fails_is_told_and_can_be_repeated(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_driver(tmp_path, fails_to_stop=True), placements(1))
    async with bench.running() as task:
        bench.session.request_stop()
        await bench.until(lambda: EventKind.NOTE in bench.kinds())
        assert not task.done()
        bench.session.request_stop()
    assert bench.messages(EventKind.NOTE) == ["stopping failed: the VM does not listen"]


async def test_a_stop_during_start_cancels_it_and_cleans_up(tmp_path: Path) -> None:
    driver = make_driver(tmp_path, hangs_in_start=True)
    bench = Bench(tmp_path, driver, placements(1))
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        task = group.create_task(bench.session.run())
        await driver.started.wait()
        bench.session.request_stop()
    assert task.result().failed == ()
    assert driver.stopped == [(bench.placed[0].task_id, 0)]
    assert driver.destroyed == [bench.placed[0].task_id]


async def test_a_start_that_fails_is_told_with_the_drivers_words(tmp_path: Path) -> None:
    error = JobError("vm: no such image", hint="list it in image_paths")
    bench = Bench(tmp_path, make_driver(tmp_path, start_errors={"vm": error}), placements(1))
    result = await bench.session.run()
    assert result.failed == ("g[0]",)
    assert bench.messages(EventKind.FAILED) == ["no such image (list it in image_paths)"]
    assert bench.driver.destroyed == [bench.placed[0].task_id]


async def test_a_wrong_option_fails_its_vm_before_the_driver_is_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_driver(tmp_path), placements(1, vlam=1))
    assert (await bench.session.run()).failed == ("g[0]",)
    assert 'no option "vlam"' in bench.messages(EventKind.FAILED)[0]
    assert not bench.driver.tasks


async def test_an_unhealthy_driver_starts_nothing(tmp_path: Path) -> None:
    error = MissingPartError("this machine cannot run VMs: no QEMU")
    bench = Bench(tmp_path, make_driver(tmp_path, begin_error=error), placements())
    with pytest.raises(MissingPartError, match="no QEMU"):
        await bench.session.run()
    assert bench.events == []


async def test_the_death_of_the_driver_fails_its_vms(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_driver(tmp_path), placements())
    async with bench.running() as task:
        bench.driver.break_off()
    assert len(task.result().failed) == 2
    assert "cannot say how the VM ended: the plugin is gone" in bench.messages(EventKind.FAILED)[0]


async def test_ready_is_told_once_and_again_when_the_guest_says_more(tmp_path: Path) -> None:
    later = GuestFacts(host_name="web-0", addresses=("192.0.2.1",), secure_boot=True)
    answers: list[GuestFacts | None] = [None, FACTS, FACTS, later, None, later]
    bench = Bench(tmp_path, make_driver(tmp_path), placements(1), answers=answers)
    async with bench.running():
        await bench.until(lambda: bench.kinds().count(EventKind.READY) == 3)
        bench.session.request_stop()
    kinds = [k for k in bench.kinds() if k in (EventKind.READY, EventKind.SILENT)]
    assert kinds == [EventKind.READY, EventKind.READY, EventKind.SILENT, EventKind.READY]
    ready = next(event for event in bench.events if event.kind is EventKind.READY)
    assert ready.details["address"] == "127.0.0.1:20022 → 22"
    assert ready.details["secure_boot"] is True


async def test_exit_when_ready_stops_all_once_every_agent_answered(tmp_path: Path) -> None:
    options = SessionOptions(exit_when_ready=True, poll_s=0.01)
    bench = Bench(tmp_path, make_driver(tmp_path), placements(), answers=[FACTS], options=options)
    async with asyncio.timeout(30):
        assert await bench.session.run() == SessionResult(failed=(), was_forced=False)
    assert bench.kinds().count(EventKind.READY) == 2


async def test_exit_when_ready_fails_when_a_vm_ends_before(tmp_path: Path) -> None:
    options = SessionOptions(exit_when_ready=True, poll_s=0.01)
    bench = Bench(tmp_path, make_driver(tmp_path), placements(), options=options)
    async with bench.running() as task:
        bench.driver.end(bench.placed[0].task_id, TaskEnd(exit_code=0))
    assert bench.placed[0].vm in task.result().failed


async def test_vms_that_are_not_ready_in_time_fail_the_session(tmp_path: Path) -> None:
    options = SessionOptions(ready_timeout_s=0.05, poll_s=0.01)
    bench = Bench(tmp_path, make_driver(tmp_path), placements(1), options=options)
    async with asyncio.timeout(30):
        assert (await bench.session.run()).failed == ("g[0]",)


async def test_driver_events_become_steps_of_their_vm(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_driver(tmp_path), placements(1))
    alloc_id = bench.placed[0].alloc_id
    for event_alloc in ("unknown", alloc_id):
        bench.driver.event_queue.put_nowait(
            TaskEvent(alloc_id=event_alloc, task_name="vm", message="downloading", percent=40.0)
        )
    async with bench.running():
        await bench.until(lambda: "downloading" in bench.messages(EventKind.STEP))
        bench.session.request_stop()
    told = [event for event in bench.events if event.message == "downloading"]
    assert [(event.vm, event.details["percent"]) for event in told] == [("g[0]", 40.0)]


def write_console(bench: Bench, text: str) -> None:
    logs = bench.session_dir / "alloc" / bench.placed[0].alloc_id / "alloc" / "logs"
    with (logs / "vm.stdout.0").open("a") as file:
        file.write(text)


async def test_the_last_line_of_a_booting_guests_console_is_told(tmp_path: Path) -> None:
    answers: list[GuestFacts | None] = [None]
    options = SessionOptions(console_every_s=0.01, poll_s=0.01)
    bench = Bench(tmp_path, make_driver(tmp_path), placements(1), answers=answers, options=options)
    async with bench.running():
        write_console(bench, "first\nsecond\n  \n")
        await bench.until(lambda: bench.messages(EventKind.CONSOLE) == ["second"])
        write_console(bench, "login: ")
        await bench.until(lambda: bench.messages(EventKind.CONSOLE) == ["second", "login:"])
        bench.session.request_stop()
    assert not bench.messages(EventKind.LOG)


async def test_the_console_of_a_ready_guest_is_told_again_when_it_is_stopped(
    tmp_path: Path,
) -> None:
    options = SessionOptions(console_every_s=0.01, poll_s=0.01)
    driver = make_driver(tmp_path, ignores_gentle_stop=True)
    bench = Bench(tmp_path, driver, placements(1), answers=[FACTS], options=options)
    async with bench.running():
        await bench.until(lambda: EventKind.READY in bench.kinds())
        write_console(bench, "said while it runs\n")
        bench.session.request_stop()
        await bench.until(lambda: EventKind.STOPPING in bench.kinds())
        write_console(bench, "Powering off.\n")
        await bench.until(lambda: bench.messages(EventKind.CONSOLE)[-1:] == ["Powering off."])
        bench.session.request_stop()
    assert "waiting for QEMU to end" in bench.messages(EventKind.STOPPING)


async def test_a_vm_that_is_not_ready_in_time_is_told_with_the_end_of_its_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_late = asyncio.Event()
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda s: is_late.wait() if s == 300 else sleep(s))
    options = SessionOptions(console_every_s=0.01, poll_s=0.01, ready_timeout_s=300)
    bench = Bench(tmp_path, make_driver(tmp_path), placements(1), options=options)
    async with bench.running():
        write_console(bench, "no bootable device\n")
        await bench.until(lambda: EventKind.CONSOLE in bench.kinds())
        is_late.set()
    (note,) = bench.messages(EventKind.NOTE)
    assert note == "its guest agent has not answered within 300 s; its console: no bootable device"


async def test_log_lines_are_told_to_the_last(tmp_path: Path) -> None:
    options = SessionOptions(show_logs=True, poll_s=0.01)
    bench = Bench(tmp_path, make_driver(tmp_path), placements(1), options=options)
    async with bench.running():
        placed = bench.placed[0]
        logs = bench.session_dir / "alloc" / placed.alloc_id / "alloc" / "logs"
        (logs / "vm.stdout.0").write_text("first\nlast words")
        bench.driver.end(placed.task_id, TaskEnd(exit_code=0))
    assert bench.messages(EventKind.LOG) == ["first", "last words"]
