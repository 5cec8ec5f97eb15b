import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from fakes.fake_qmp import FakeQmp, Greeting

from qemu_node.errors import QmpError
from qemu_node.qmp.connection import (
    QmpClosedError,
    QmpConnection,
    QmpRefusedError,
    QmpTimeoutError,
)
from qemu_node.qmp.events import QmpEvent

LONG_S = 20.0
"""For what must happen; a busy machine is slow."""
SHORT_S = 0.3
"""For what must not happen."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp.sock"


@pytest.fixture(autouse=True)
async def no_task_is_left_behind() -> AsyncGenerator[None]:
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(LONG_S):
        while asyncio.all_tasks() - before - {asyncio.current_task()}:
            await asyncio.sleep(0.01)


async def connected(path: Path, **options: Any) -> QmpConnection:
    return await QmpConnection.connect(path, timeout_s=LONG_S, **options)


async def until(condition: Any) -> None:
    async with asyncio.timeout(LONG_S):
        while not condition():
            await asyncio.sleep(0.005)


# Greeting


@pytest.mark.parametrize("greeting", ["prompt", "late"])
async def test_greeting_may_be_late(path: Path, greeting: Greeting) -> None:
    async with FakeQmp(path, greeting=greeting), await connected(path) as connection:
        assert connection.is_open
        assert await connection.execute("query-status") == {"status": "running", "running": True}


async def test_absent_greeting_is_a_timeout_that_says_so(path: Path) -> None:
    async with FakeQmp(path, greeting="absent"):
        with pytest.raises(QmpTimeoutError, match=r"did not greet on .*qmp\.sock within 0\.3 s"):
            await QmpConnection.connect(path, timeout_s=SHORT_S)


@pytest.mark.parametrize(
    ("greeting", "said"),
    [
        ("torn", "closed before QEMU was ready"),
        ("garbage", "no QMP on .*: a message is malformed"),
        ("huge", "a message is too long"),
        ("hangup", "closed before QEMU was ready"),
    ],
)
async def test_broken_greeting_is_a_bounded_error(
    path: Path, greeting: Greeting, said: str
) -> None:
    async with FakeQmp(path, greeting=greeting):
        with pytest.raises(QmpError, match=said) as caught:
            await connected(path)
    assert not isinstance(caught.value, QmpTimeoutError)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


async def test_refused_negotiation_is_an_error(path: Path) -> None:
    async with FakeQmp(path, negotiation="error"):
        with pytest.raises(QmpError, match="refused the negotiation: no"):
            await connected(path)


async def test_unanswered_negotiation_is_a_timeout(path: Path) -> None:
    async with FakeQmp(path, negotiation="silent"):
        with pytest.raises(QmpTimeoutError):
            await QmpConnection.connect(path, timeout_s=SHORT_S)


async def test_missing_socket_is_named(path: Path) -> None:
    with pytest.raises(QmpError, match=r"no QMP on .*qmp\.sock: No such file"):
        await connected(path)


async def test_socket_without_a_listener_is_an_error(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        with pytest.raises(QmpError, match="Connection refused"):
            await connected(path)


async def test_full_backlog_is_waited_for_within_the_deadline(path: Path) -> None:
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(0)
        filler = sockets.enter_context(socket.socket(socket.AF_UNIX))
        filler.connect(str(path))
        with pytest.raises(QmpTimeoutError):
            await QmpConnection.connect(path, timeout_s=SHORT_S)


async def test_cancelled_connect_leaves_nothing(path: Path) -> None:
    async with FakeQmp(path, greeting="absent") as qemu:
        task = asyncio.ensure_future(connected(path))
        await until(lambda: qemu.connections == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_second_client_is_greeted_when_the_first_has_gone(path: Path) -> None:
    async with FakeQmp(path):
        first = await connected(path)
        with pytest.raises(QmpTimeoutError):
            await QmpConnection.connect(path, timeout_s=SHORT_S)
        await first.close()
        async with await connected(path) as second:
            assert second.is_open


# Calls


async def test_refusal_carries_class_and_description(path: Path) -> None:
    async with FakeQmp(path), await connected(path) as connection:
        with pytest.raises(QmpRefusedError, match="refused nonsense: The command") as caught:
            await connection.execute("nonsense")
        assert caught.value.error_class == "CommandNotFound"
        assert connection.is_open


async def test_refusal_is_made_safe_to_print(path: Path) -> None:
    async with (
        FakeQmp(path, errors={"cont": "\x1b[31m" + "x" * 10_000}),
        await connected(path) as connection,
    ):
        with pytest.raises(QmpRefusedError) as caught:
            await connection.execute("cont")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


async def test_unanswered_command_times_out_and_the_connection_goes_on(path: Path) -> None:
    async with FakeQmp(path, silent=["stop"]), await connected(path) as connection:
        with pytest.raises(QmpTimeoutError, match=r"stop within 0\.3 s; it may still"):
            await connection.execute("stop", timeout_s=SHORT_S)
        assert await connection.execute("query-status", timeout_s=LONG_S)


async def test_late_answer_is_not_taken_for_the_next_one(path: Path) -> None:
    async with (
        FakeQmp(path, late=["query-version"], stray=True) as qemu,
        await connected(path) as connection,
    ):
        with pytest.raises(QmpTimeoutError):
            await connection.execute("query-version", timeout_s=SHORT_S)
        assert "status" in await connection.execute("query-status", timeout_s=LONG_S)
        qemu.answer_late()
        for _ in range(3):
            assert "status" in await connection.execute("query-status", timeout_s=LONG_S)
        assert qemu.commands.count("query-version") == 1


async def test_overlapping_calls_get_their_own_answers(path: Path) -> None:
    async with (
        FakeQmp(path, late=["query-version"], stray=True) as qemu,
        await connected(path) as connection,
        asyncio.TaskGroup() as group,
    ):
        version = group.create_task(connection.execute("query-version", timeout_s=LONG_S))
        await until(lambda: "query-version" in qemu.commands)
        assert "status" in await connection.execute("query-status", timeout_s=LONG_S)
        qemu.answer_late()
        assert "qemu" in await version


async def test_cancelled_call_leaves_a_usable_connection(path: Path) -> None:
    async with FakeQmp(path, silent=["stop"]) as qemu, await connected(path) as connection:
        task = asyncio.ensure_future(connection.execute("stop"))
        await until(lambda: "stop" in qemu.commands)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await connection.execute("query-status", timeout_s=LONG_S)


@pytest.mark.parametrize("fault", ["hang_up", "mid_reply"])
async def test_disconnect_says_that_the_command_may_have_run(path: Path, fault: str) -> None:
    options: dict[str, Any] = {fault: ["cont"]}
    async with FakeQmp(path, **options), await connected(path) as connection:
        with pytest.raises(QmpClosedError, match="during cont; it may have"):
            await connection.execute("cont", timeout_s=LONG_S)
        with pytest.raises(QmpClosedError, match="cont was not sent"):
            await connection.execute("cont", timeout_s=LONG_S)
        assert not connection.is_open


async def test_disconnect_interrupts_every_pending_call(path: Path) -> None:
    async with FakeQmp(path, silent=["stop"]) as qemu, await connected(path) as connection:
        calls = [
            asyncio.ensure_future(connection.execute("stop", timeout_s=LONG_S)) for _ in range(20)
        ]
        await until(lambda: len(qemu.commands) == 20)
        qemu.drop_client()
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, QmpClosedError) for result in results)


@pytest.mark.parametrize(
    "reply",
    [
        b'{"id": %ID%}\r\n',
        b'{"id": %ID%, "error": "no object"}\r\n',
        b'{"id": %ID%, "error": {"desc": 5}}\r\n',
        b'["no object"]\r\n',
        b"no json\r\n",
        b"\xff\xfe\r\n",
        b'{"id": %ID%, "return": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\r\n",
        b'{"id": %ID%, "return": ' + b"9" * 100_000 + b"}\r\n",
        b'{"id": %ID%, "return": "' + b"x" * (3 << 20) + b'"}\r\n',
        b'{"error": {"class": "GenericError", "desc": "no id"}}\r\n',
        b'{"id": [], "return": {}}\r\n',
    ],
)
async def test_malformed_reply_is_an_error_within_the_deadline(path: Path, reply: bytes) -> None:
    async with FakeQmp(path, raw={"cont": reply}), await connected(path) as connection:
        with pytest.raises(QmpError) as caught:
            await connection.execute("cont", timeout_s=LONG_S)
    assert not isinstance(caught.value, QmpTimeoutError)
    assert len(str(caught.value)) < 1000


async def test_descriptors_need_an_open_connection(path: Path) -> None:
    async with FakeQmp(path):
        connection = await connected(path)
        await connection.close()
        with pytest.raises(QmpClosedError, match="add-fd was not sent"):
            await connection.execute("add-fd", fds=[0])


# End


async def test_wait_closed_returns_when_qemu_leaves(path: Path) -> None:
    async with FakeQmp(path) as qemu, await connected(path) as connection:
        waiting = asyncio.ensure_future(connection.wait_closed())
        await connection.execute("query-status", timeout_s=LONG_S)
        assert not waiting.done()
        qemu.drop_client()
        await asyncio.wait_for(waiting, LONG_S)
        await asyncio.wait_for(connection.wait_closed(), LONG_S)


async def test_close_is_idempotent_and_may_run_twice_at_once(path: Path) -> None:
    async with FakeQmp(path):
        connection = await connected(path)
        await asyncio.gather(connection.close(), connection.close(), connection.wait_closed())
        await connection.close()
        assert not connection.is_open


async def test_close_interrupts_a_call(path: Path) -> None:
    async with FakeQmp(path, silent=["stop"]) as qemu:
        connection = await connected(path)
        call = asyncio.ensure_future(connection.execute("stop", timeout_s=LONG_S))
        await until(lambda: qemu.commands)
        await connection.close()
        with pytest.raises(QmpClosedError):
            await call


@pytest.mark.parametrize("turns", range(6))
async def test_close_that_is_cancelled_ends_the_connection_without_a_word(
    path: Path, turns: int
) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, report: reports.append(report))
    async with FakeQmp(path) as qemu:
        connection = await connected(path)
        qemu.drop_client()
        await until(lambda: not connection.is_open)
        closing = asyncio.ensure_future(connection.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})
    await connection.close()
    gc.collect()
    assert reports == []


async def test_close_does_not_wait_for_a_qemu_that_reads_nothing(path: Path) -> None:
    async with FakeQmp(path, deaf=True):
        connection = await connected(path)
        filling = [
            asyncio.ensure_future(connection.execute("stop", {"x": "y" * 1_000_000}))
            for _ in range(8)
        ]
        await asyncio.sleep(0.1)
        await asyncio.wait_for(connection.close(), LONG_S)
        results = await asyncio.gather(*filling, return_exceptions=True)
    assert all(isinstance(result, QmpError) for result in results)


# Events


async def test_events_arrive_in_order(path: Path) -> None:
    seen: list[QmpEvent] = []
    async with FakeQmp(path) as qemu, await connected(path, on_event=seen.append) as connection:
        await connection.execute("query-status", timeout_s=LONG_S)
        for number in range(500):
            qemu.emit("RTC_CHANGE", {"offset": number})
        await until(lambda: len(seen) == 500)
        assert [event.data["offset"] for event in seen] == list(range(500))


async def test_others_have_their_turn_between_two_events(path: Path) -> None:
    turns = list[int]()
    missed = list[int]()

    def take(event: QmpEvent) -> None:
        number = event.data["offset"]
        missed.extend(range(len(turns), number))
        asyncio.get_running_loop().call_soon(turns.append, number)

    async with FakeQmp(path) as qemu, await connected(path, on_event=take):
        for number in range(500):
            qemu.emit("RTC_CHANGE", {"offset": number})
        await until(lambda: len(turns) == 500)
    assert missed == []


async def test_failing_event_handler_ends_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: QmpEvent) -> None:
        raise ValueError(event.name)

    async with FakeQmp(path) as qemu, await connected(path, on_event=fail) as connection:
        await connection.execute("query-status", timeout_s=LONG_S)
        qemu.emit("STOP")
        await until(lambda: "event handler failed" in caplog.text)
        assert await connection.execute("query-status", timeout_s=LONG_S)


async def test_malformed_event_is_passed_over(path: Path) -> None:
    seen: list[QmpEvent] = []
    async with FakeQmp(path) as qemu, await connected(path, on_event=seen.append) as connection:
        await connection.execute("query-status", timeout_s=LONG_S)
        qemu.send(b'{"event": ["STOP"]}\r\n{"event": "STOP", "data": 5}\r\n')
        qemu.emit("STOP")
        await until(lambda: seen)
    assert [event.name for event in seen] == ["STOP"]


async def test_a_qemu_that_sends_malformed_events_does_not_flood_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[QmpEvent] = []
    async with FakeQmp(path) as qemu, await connected(path, on_event=seen.append) as connection:
        await connection.execute("query-status", timeout_s=LONG_S)
        qemu.send(b'{"event": "STOP", "data": 5}\r\n' * 200)
        qemu.emit("STOP")
        await until(lambda: seen)
    assert caplog.text.count("malformed QMP event") == 1


async def test_nothing_is_logged_of_what_is_raised(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeQmp(path, greeting="garbage"):
        with pytest.raises(QmpError):
            await connected(path)
    assert not caplog.records
