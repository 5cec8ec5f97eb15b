"""`nomad alloc exec` as its client sees it: words, exit codes, signs of life."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from fakes.fake_qga import FakeProgram, FakeQga

from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.nomad.plugin.grpcstatus import TaskNotFoundError
from qemu_node.nomad.proto import driver_pb2
from qemu_node.nomad.task import exec as task_exec
from qemu_node.qga.agent import GuestAgent
from qemu_node.vm.life.machine import VM

LONG_S = 60.0

Request = driver_pb2.ExecTaskStreamingRequest
Response = driver_pb2.ExecTaskStreamingResponse


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qga.sock"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_exec, "_SIGN_OF_LIFE_S", 0.01)


class Session:
    """A `nomad alloc exec` of one command in a guest whose agent listens on `path`."""

    def __init__(
        self, path: Path, tasks: TaskOwner, *, allow_exec: bool = True, tty: bool = False
    ) -> None:
        self.vm_ended = asyncio.Event()
        self.stdin: asyncio.Queue[Request] = asyncio.Queue()
        vm = SimpleNamespace(
            record=SimpleNamespace(vm_id="vm", allow_exec=allow_exec),
            agent=GuestAgent(path, path.with_name("qga.lock")),
            wait=self.vm_ended.wait,
        )
        self._setup = Request.Setup(task_id="t", command=["prog", "arg"], tty=tty)
        responses = task_exec.run_streaming(self._requests(), lambda _: cast("VM", vm), tasks)
        self.responses = aiter(responses)

    async def _requests(self) -> AsyncIterator[Request]:
        yield Request(setup=self._setup)
        while True:
            yield await self.stdin.get()

    def write(self, data: bytes) -> None:
        self.stdin.put_nowait(Request(stdin=driver_pb2.ExecTaskStreamingIOOperation(data=data)))

    def close_stdin(self) -> None:
        self.stdin.put_nowait(Request(stdin=driver_pb2.ExecTaskStreamingIOOperation(close=True)))

    async def finish(self) -> tuple[bytes, bytes, int]:
        """Return all of stdout and stderr, and the exit code."""
        messages = [message async for message in self.responses]
        assert messages[-1].exited
        assert not any(message.exited for message in messages[:-1])
        return (
            b"".join(message.stdout.data for message in messages),
            b"".join(message.stderr.data for message in messages),
            messages[-1].result.exit_code,
        )


async def test_output_and_exit_code_are_the_commands(path: Path) -> None:
    program = FakeProgram(exit_code=7, stdout=b"out", stderr=b"err")
    async with FakeQga(path, programs={"prog": program}), TaskOwner() as tasks:
        session = Session(path, tasks)
        session.close_stdin()
        assert await session.finish() == (b"out", b"err", 7)


async def test_a_refusal_by_the_job_is_words_and_126(path: Path) -> None:
    async with TaskOwner() as tasks:
        _, words, code = await Session(path, tasks, allow_exec=False).finish()
    assert code == 126
    assert words.startswith(b"vm: exec is not allowed by this job (set guest_agent")
    assert words.endswith(b")\n")


async def test_a_terminal_is_refused_in_words_that_a_raw_terminal_shows(path: Path) -> None:
    async with TaskOwner() as tasks:
        _, words, code = await Session(path, tasks, tty=True).finish()
    assert code == 126
    assert b"-i=false -t=false" in words
    assert words.endswith(b"\r\n")


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("Failed to execute child process \u201cprog\u201d (No such file or directory)", 127),
        ("Failed to execute child process \u201cprog\u201d (Permission denied)", 126),
    ],
)
async def test_a_program_that_the_guest_cannot_run_is_told_as_by_a_shell(
    path: Path, reason: str, code: int
) -> None:
    async with FakeQga(path, errors={"guest-exec": reason}), TaskOwner() as tasks:
        session = Session(path, tasks)
        session.close_stdin()
        _, words, exit_code = await session.finish()
    assert exit_code == code
    assert reason.encode() in words


@pytest.mark.usefixtures("hurried")
async def test_a_guest_without_an_agent_is_told_after_5_s_though_stdin_is_open(path: Path) -> None:
    async with FakeQga(path, sync="silent"), TaskOwner() as tasks:
        _, words, code = await Session(path, tasks).finish()
    assert code == 126
    first, last = words.decode().splitlines()
    assert first == "vm: waiting for the guest agent"
    # What its setting up took is not waited for.
    assert re.search(r"does not answer \(waited (4\.\d+|5) s\)", last)
    assert "is qemu-guest-agent installed" in last


async def test_a_disabled_exec_is_told(path: Path) -> None:
    async with FakeQga(path, disabled=["guest-exec"]), TaskOwner() as tasks:
        session = Session(path, tasks)
        session.close_stdin()
        _, words, code = await session.finish()
    assert (code, b"guest-exec disabled" in words) == (126, True)


@pytest.mark.usefixtures("hurried")
async def test_a_command_that_waits_for_its_input_says_so_once_and_gets_all_of_it(
    path: Path,
) -> None:
    async with FakeQga(path, programs={"prog": FakeProgram()}) as guest, TaskOwner() as tasks:
        session = Session(path, tasks)
        session.write(b"a")
        said: list[bytes] = []
        while len(said) < 3:
            said.append((await anext(session.responses)).stderr.data)
        assert sum(b"waiting for the end of stdin" in words for words in said) == 1
        assert "guest-exec" not in guest.commands
        session.write(b"b")
        session.close_stdin()
        _, words, code = await session.finish()
        assert (words, code) == (b"", 0)
        (request,) = (item for item in guest.received if item["execute"] == "guest-exec")
        assert request["arguments"]["input-data"] == base64.b64encode(b"ab").decode()


async def test_more_input_than_the_agent_takes_is_refused(path: Path) -> None:
    async with FakeQga(path, programs={"prog": FakeProgram()}), TaskOwner() as tasks:
        session = Session(path, tasks)
        session.write(bytes(task_exec.INPUT_MAX_BYTES + 1))
        _, words, code = await session.finish()
    assert (code, b"more than 4 MiB on stdin" in words) == (126, True)


@pytest.mark.usefixtures("hurried")
async def test_a_silent_command_gives_signs_of_life_without_words(path: Path) -> None:
    async with FakeQga(path, programs={"prog": FakeProgram(polls=2)}), TaskOwner() as tasks:
        session = Session(path, tasks)
        session.close_stdin()
        messages = [message async for message in session.responses]
    assert Response() in messages
    assert not any(message.stderr.data for message in messages if not message.exited)


@pytest.mark.usefixtures("hurried")
async def test_a_caller_that_goes_away_has_the_command_ended_in_the_guest(path: Path) -> None:
    programs = {"prog": FakeProgram(polls=-1), "/bin/sh": FakeProgram()}
    async with FakeQga(path, programs=programs) as guest, TaskOwner() as tasks:
        session = Session(path, tasks)
        session.close_stdin()
        async for _ in session.responses:
            if "guest-exec-status" in guest.commands:
                break
        await session.responses.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(LONG_S):
            while guest.commands.count("guest-exec") < 2:
                await asyncio.sleep(0.01)
        execs = [r["arguments"] for r in guest.received if r["execute"] == "guest-exec"]
        asked = next(r for r in guest.received if r["execute"] == "guest-exec-status")
        assert execs[1]["path"] == "/bin/sh"
        assert execs[1]["arg"][-1] == str(asked["arguments"]["pid"])


async def test_the_guests_end_ends_the_command(path: Path) -> None:
    async with FakeQga(path, programs={"prog": FakeProgram(polls=-1)}), TaskOwner() as tasks:
        session = Session(path, tasks)
        session.close_stdin()
        session.vm_ended.set()
        _, words, code = await session.finish()
    assert (code, b"the VM ended" in words) == (126, True)


async def test_an_unknown_task_is_nomads_own_error(path: Path) -> None:
    def find(_: str) -> VM:
        raise TaskNotFoundError

    async def requests() -> AsyncIterator[Request]:
        yield Request(setup=Request.Setup(task_id="x", command=["prog"]))

    async with TaskOwner() as tasks:
        with pytest.raises(TaskNotFoundError):
            await anext(aiter(task_exec.run_streaming(requests(), find, tasks)))
