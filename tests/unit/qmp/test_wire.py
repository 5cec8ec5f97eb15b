import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from qemu_node.qmp.wire import LINE_MAX_BYTES, Lost, QmpProtocol, Refused

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
NEGOTIATED = b'{"return": {}}\r\n'


class FakeTransport(asyncio.Transport):
    """Keeps what is written, and says whether it is read from."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[dict[str, Any]] = []
        self.reads = True
        self.was_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(msgspec.json.decode(data))

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def abort(self) -> None:
        self.was_aborted = True


class Peer:
    """A protocol with its transport; `say` is what QEMU would send."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.protocol = QmpProtocol(self.events.append)
        self.transport = FakeTransport()
        self.protocol.connection_made(self.transport)

    def say(self, data: bytes) -> None:
        while data:
            buffer = self.protocol.get_buffer(-1)
            part, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(part)] = part
            self.protocol.buffer_updated(len(part))


@pytest.fixture
async def peer() -> Peer:
    return Peer()


@pytest.fixture
async def opened(peer: Peer) -> Peer:
    peer.say(GREETING)
    peer.say(NEGOTIATED)
    assert peer.protocol.is_open
    return peer


async def test_nothing_is_sent_before_the_greeting(peer: Peer) -> None:
    assert peer.transport.written == []
    peer.say(GREETING)
    assert peer.transport.written == [{"execute": "qmp_capabilities"}]
    assert not peer.protocol.is_open
    peer.say(NEGOTIATED)
    await peer.protocol.ready


async def test_a_message_may_come_in_pieces(opened: Peer) -> None:
    answer = opened.protocol.call("query-status", None)
    call_id = opened.transport.written[-1]["id"].encode()
    for byte in b'{"return": 5, "id": "%s"}\r\n' % call_id:
        assert not answer.done()
        opened.say(bytes([byte]))
    assert await answer == 5


async def test_an_event_before_the_greeting_is_delivered(peer: Peer) -> None:
    peer.say(b'{"event": "STOP"}\n' + GREETING)
    assert peer.events == [{"event": "STOP"}]


async def test_no_more_is_read_while_messages_wait_for_their_turn(opened: Peer) -> None:
    opened.say(b'{"event": "A"}\n{"event": "B"}\n{"event": "C"}\n{"eve')
    assert len(opened.events) == 1
    pauses = 0
    while not opened.transport.reads:
        pauses += 1
        await asyncio.sleep(0)
    assert pauses
    assert [event["event"] for event in opened.events] == ["A", "B", "C"]


async def test_a_call_without_arguments_sends_none(opened: Peer) -> None:
    _ = opened.protocol.call("cont", None)
    _ = opened.protocol.call("stop", {"a": 1})
    cont, stop = opened.transport.written[-2:]
    assert "arguments" not in cont
    assert stop["arguments"] == {"a": 1}
    assert cont["id"] != stop["id"]


@pytest.mark.parametrize("end", ["answered", "refused", "cancelled"])
async def test_nothing_is_kept_of_a_call_that_is_over(opened: Peer, end: str) -> None:
    answer = opened.protocol.call("cont", None)
    call_id = opened.transport.written[-1]["id"].encode()
    match end:
        case "answered":
            opened.say(b'{"return": {}, "id": "%s"}\n' % call_id)
            await answer
        case "refused":
            opened.say(b'{"error": {"class": "C", "desc": "no"}, "id": "%s"}\n' % call_id)
            with pytest.raises(Refused, match="no"):
                await answer
        case _:
            answer.cancel()
    await asyncio.sleep(0)
    assert not opened.protocol._calls
    # Whatever comes for it now is for nobody.
    opened.say(b'{"return": {}, "id": "%s"}\n' % call_id)
    assert opened.protocol.is_open


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b'{"return": {}}\n', "does not greet"),
        (b"SSH-2.0\n", "malformed"),
        (b'["QMP"]\n', "malformed"),
        (b'{"QMP": 5}\n', "malformed"),
        (GREETING + b'{"id": "x"}\n', "neither a value nor an error"),
        (GREETING + NEGOTIATED + b'{"return": {}}\n', "does not say to which"),
        (b"x" * (LINE_MAX_BYTES + 1), "too long"),
    ],
)
async def test_a_peer_that_does_not_speak_qmp_is_left(peer: Peer, said: bytes, reason: str) -> None:
    peer.say(said)
    for _ in range(3):
        await asyncio.sleep(0)
    assert peer.transport.was_aborted
    peer.protocol.connection_lost(None)
    with pytest.raises(Lost, match=reason):
        await peer.protocol.call("cont", None)
    assert peer.protocol.closed.done()


async def test_nothing_is_taken_after_the_end(opened: Peer) -> None:
    opened.say(b'{"event": "A"}\n{"event": "B"}\n')
    opened.protocol.abort()
    opened.protocol.connection_lost(None)
    await asyncio.sleep(0)
    assert [event["event"] for event in opened.events] == ["A"]


async def test_all_calls_learn_of_the_end(opened: Peer) -> None:
    answers = [opened.protocol.call("cont", None) for _ in range(3)]
    opened.protocol.connection_lost(None)
    for answer in answers:
        with pytest.raises(Lost) as caught:
            await answer
        assert caught.value.reason is None
