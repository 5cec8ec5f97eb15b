import asyncio
import socket
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal

import pytest
from fakes.fake_qga import FakeQga
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.errors import GuestAgentError
from qemu_node.host.files.lock import FileLock
from qemu_node.qga import agentsession
from qemu_node.qga.agentsession import AgentSession, AgentTimeoutError, ChannelClosedError
from qemu_node.qga.allowedcommands import CommandNotAllowedError
from qemu_node.qga.replies import Nothing, RawExecStatus, RawHostName
from qemu_node.qga.wire import AgentRefusedError

LONG_S = 20.0
SHORT_S = 0.3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qga.sock"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "qga.lock"


@pytest.fixture(autouse=True)
async def no_task_is_left_behind() -> AsyncGenerator[None]:
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(LONG_S):
        while asyncio.all_tasks() - before - {asyncio.current_task()}:
            await asyncio.sleep(0.01)


async def ping(path: Path, lock: Path, *, timeout_s: float = LONG_S) -> None:
    async with AgentSession.open(path, lock, timeout_s=timeout_s) as session:
        await session.execute("guest-ping", kind=Nothing)


# Synchronising


async def test_reply_left_over_from_another_client_is_not_taken_for_ours(
    path: Path, lock: Path
) -> None:
    stale = b'{"return": {"version": "stale"}}\n\xff{"return": 5}\n{"return": {"exi'
    async with FakeQga(path, stale=stale):
        await ping(path, lock)


async def test_answer_to_an_earlier_synchronisation_is_passed_over(path: Path, lock: Path) -> None:
    async with FakeQga(path, sync="stale-first"):
        await ping(path, lock)


async def test_late_reply_goes_to_nobody(path: Path, lock: Path) -> None:
    async with FakeQga(path, late=["guest-get-host-name"]):
        with pytest.raises(AgentTimeoutError, match="guest-get-host-name; it may still"):
            async with AgentSession.open(path, lock, timeout_s=SHORT_S) as session:
                await session.execute("guest-get-host-name", kind=RawHostName)
        await ping(path, lock)


async def test_session_resynchronises_after_a_timeout(path: Path, lock: Path) -> None:
    async with (
        FakeQga(path, silent=["guest-get-host-name"]),
        AgentSession.open(path, lock, timeout_s=LONG_S) as session,
    ):
        with pytest.raises(AgentTimeoutError):
            await session.execute("guest-get-host-name", kind=RawHostName, timeout_s=SHORT_S)
        assert await session.execute("guest-ping", kind=Nothing) == Nothing()


@pytest.mark.parametrize("sync", ["silent", "wrong-id", "no-sentinel"])
async def test_agent_that_does_not_synchronise_does_not_answer(
    path: Path, lock: Path, sync: Literal["silent", "wrong-id", "no-sentinel"]
) -> None:
    async with FakeQga(path, sync=sync) as guest:
        with pytest.raises(AgentTimeoutError, match="the guest agent does not answer"):
            await ping(path, lock, timeout_s=SHORT_S)
        assert guest.commands == []


# Deadline


async def test_deadline_is_for_the_call_not_for_each_byte(path: Path, lock: Path) -> None:
    # A whole answer takes a second at this pace: with a deadline for each byte it would come.
    async with FakeQga(path, drip_s=0.05):
        with pytest.raises(AgentTimeoutError):
            await ping(path, lock, timeout_s=0.5)


@pytest.mark.parametrize("end", [b"x", b"\n"], ids=["noise", "lines"])
async def test_flood_lets_others_run_until_the_deadline(
    path: Path, lock: Path, end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A guest that is always faster than we are: every read finds a full chunk, none suspends.
    async def full_chunk(_socket: socket.socket, size_bytes: int) -> bytes:
        return (b"x" * 63 + end) * (size_bytes // 64)

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_recv", full_chunk)
    # Only the deadline can end the call, and only if the loop is let run.
    monkeypatch.setattr(agentsession, "_FLOOD_MAX_BYTES", 1 << 62)
    async with FakeQga(path, sync="silent"):
        with pytest.raises(AgentTimeoutError):
            await ping(path, lock, timeout_s=SHORT_S)


@pytest.mark.parametrize("kind", ["noise", "lines"])
async def test_flood_is_no_reply(path: Path, lock: Path, kind: Literal["noise", "lines"]) -> None:
    async with FakeQga(path, flood={"guest-ping": kind}):
        with pytest.raises(GuestAgentError, match=r"longer than|malformed"):
            await ping(path, lock)


async def test_many_answers_of_others_are_passed_over(path: Path, lock: Path) -> None:
    async with FakeQga(path, stale=b"\xff{}\n" * 20_000):
        await ping(path, lock)


async def test_command_is_sent_only_to_an_agent_that_answers(path: Path, lock: Path) -> None:
    async with FakeQga(path, sync="silent") as guest:
        with pytest.raises(AgentTimeoutError):
            async with AgentSession.open(path, lock, timeout_s=SHORT_S) as session:
                await session.send("guest-shutdown", {"mode": "powerdown"})
        assert guest.shutdown_mode is None


# Faults


async def test_missing_socket_is_named(path: Path, lock: Path) -> None:
    with pytest.raises(GuestAgentError, match=r"on .*qga\.sock: No such file"):
        await ping(path, lock)


async def test_full_backlog_is_waited_for_within_the_deadline(path: Path, lock: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as filler:
        listener.bind(str(path))
        listener.listen(0)
        filler.connect(str(path))
        with pytest.raises(AgentTimeoutError, match="no QEMU took"):
            await ping(path, lock, timeout_s=SHORT_S)


async def test_lock_that_cannot_be_made_is_an_error(path: Path, tmp_path: Path) -> None:
    async with FakeQga(path):
        with pytest.raises(GuestAgentError, match="cannot take a turn"):
            await ping(path, tmp_path / "missing" / "lock")


@pytest.mark.parametrize("fault", ["hang_up", "mid_reply"])
async def test_closed_channel_is_told(path: Path, lock: Path, fault: str) -> None:
    options: dict[str, Any] = {fault: ["guest-ping"]}
    async with FakeQga(path, **options):
        with pytest.raises(ChannelClosedError, match="QEMU closed"):
            await ping(path, lock)


async def test_refusal_is_told_and_the_session_goes_on(path: Path, lock: Path) -> None:
    async with (
        FakeQga(path, errors={"guest-get-host-name": "no name"}),
        AgentSession.open(path, lock, timeout_s=LONG_S) as session,
    ):
        with pytest.raises(AgentRefusedError, match=r"guest-get-host-name failed .*: no name"):
            await session.execute("guest-get-host-name", kind=RawHostName)
        await session.execute("guest-ping", kind=Nothing)


async def test_command_off_the_list_is_not_sent(path: Path, lock: Path) -> None:
    async with (
        FakeQga(path) as guest,
        AgentSession.open(path, lock, timeout_s=LONG_S) as session,
    ):
        with pytest.raises(CommandNotAllowedError):
            await session.execute("guest-file-open", {"path": "/etc/shadow"}, kind=Nothing)
        assert guest.commands == []


async def test_long_reply_is_accepted_from_exec_status_alone(path: Path, lock: Path) -> None:
    pad = b'{"return": {"exited": false, "pad": "' + b"x" * (2 << 20) + b'"}}\n'
    async with FakeQga(path, raw={"guest-ping": pad, "guest-exec-status": pad}):
        with pytest.raises(GuestAgentError, match="longer than 1048576 bytes"):
            await ping(path, lock)
        async with AgentSession.open(path, lock, timeout_s=LONG_S) as session:
            status = await session.execute("guest-exec-status", {"pid": 1}, kind=RawExecStatus)
            assert not status.exited


# Turns


async def test_clients_take_turns(path: Path, lock: Path) -> None:
    async with FakeQga(path) as guest:
        await asyncio.gather(*[ping(path, lock) for _ in range(10)])
        assert guest.connections == 10


async def test_turn_of_another_process_is_waited_for_within_the_deadline(
    path: Path, lock: Path
) -> None:
    async with FakeQga(path):
        with FileLock(lock), pytest.raises(AgentTimeoutError, match="another client"):
            await ping(path, lock, timeout_s=SHORT_S)
        await ping(path, lock)


async def test_cancelled_call_gives_up_its_turn(path: Path, lock: Path) -> None:
    async with FakeQga(path, silent=["guest-ping"]) as guest:
        task = asyncio.ensure_future(ping(path, lock))
        async with asyncio.timeout(LONG_S):
            while not guest.commands:
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert FileLock(lock).try_acquire()


# Anything


async def call(
    reply: bytes, *, stale: bytes, timeout_s: float, chunk_bytes: int | None = None
) -> str:
    """Return what comes of a call that is answered by `reply`."""
    with tempfile.TemporaryDirectory() as name:
        path, lock = Path(name, "qga.sock"), Path(name, "qga.lock")
        raw = {"guest-get-host-name": reply}
        async with FakeQga(path, raw=raw, stale=stale, chunk_bytes=chunk_bytes):
            try:
                async with AgentSession.open(path, lock, timeout_s=LONG_S) as session:
                    value = await session.execute(
                        "guest-get-host-name", kind=RawHostName, timeout_s=timeout_s
                    )
            except GuestAgentError as exc:
                return type(exc).__name__
            return repr(value)


replies_of_a_hostile_guest = st.binary(max_size=60) | st.lists(
    st.sampled_from(
        [b"\n", b"\xff", b'{"return": {"host-name": "a"}}', b'{"return":', b"[]", b"{}", b"\0"]
    ),
    max_size=6,
).map(b"".join)


@settings(max_examples=60)
@given(replies_of_a_hostile_guest, replies_of_a_hostile_guest, st.integers(1, 7))
async def test_any_bytes_end_within_the_deadline_however_they_are_cut(
    reply: bytes, stale: bytes, chunk_bytes: int
) -> None:
    async with asyncio.timeout(LONG_S):
        whole = await call(reply, stale=stale, timeout_s=0.1)
    if whole != "AgentTimeoutError":
        cut = await call(reply, stale=stale, timeout_s=LONG_S, chunk_bytes=chunk_bytes)
        assert cut == whole
