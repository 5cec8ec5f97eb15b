"""A QEMU control socket that can misbehave."""

import asyncio
import json
from collections.abc import AsyncGenerator, Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from fakes.unix_peer import UnixPeer

Greeting = Literal["prompt", "late", "torn", "absent", "garbage", "huge", "hangup"]
Negotiation = Literal["ok", "error", "silent"]

_GREETING = {
    "QMP": {
        "version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""},
        "capabilities": ["oob"],
    }
}

_WITHOUT_VALUE = (
    "cont",
    "stop",
    "system_powerdown",
    "quit",
    "remove-fd",
    "screendump",
    "input-send-event",
)


class FakeQmp(UnixPeer):
    """QEMU as its QMP socket shows it: a run state, commands, events.

    async with FakeQmp(tmp_path / "qmp.sock", silent=["query-status"]) as qemu:
        connection = await QmpConnection.connect(qemu.path)

    Args:
        path: Where it listens.
        greeting: `late` comes after `greeting_delay_s`; `torn` is half of one, then the connection
            is closed; `absent` never comes; `garbage` is no JSON; `huge` is a line without end;
            `hangup` closes at once.
        greeting_delay_s: See `late`.
        negotiation: How `qmp_capabilities` is answered.
        status: The run state at first; see `power_off` and `panic`.
        replies: What commands return beside those it knows, or instead.
        errors: Descriptions with which commands are refused.
        silent: Commands that are taken and never answered.
        late: Commands whose answers wait for `answer_late`; others are answered meanwhile.
        raw: Bytes sent instead of a reply, `%ID%` in them replaced by the command's id in JSON.
        hang_up: Commands at which the connection is closed without a reply.
        mid_reply: Commands at which it is closed within the reply.
        stray: Send a reply to nobody and an event ahead of each reply.
        deaf: Read nothing after the negotiation.
        obeys_powerdown: The guest powers off at `system_powerdown`.

    It knows query-status, query-version, cont, stop, system_powerdown, quit, add-fd, remove-fd and
    screendump, which succeeds and writes nothing: descriptors are dropped.
    """

    def __init__(
        self,
        path: Path,
        *,
        greeting: Greeting = "prompt",
        greeting_delay_s: float = 0.2,
        negotiation: Negotiation = "ok",
        status: str = "running",
        replies: Mapping[str, object] | None = None,
        errors: Mapping[str, str] | None = None,
        silent: Collection[str] = (),
        late: Collection[str] = (),
        raw: Mapping[str, bytes] | None = None,
        hang_up: Collection[str] = (),
        mid_reply: Collection[str] = (),
        stray: bool = False,
        deaf: bool = False,
        obeys_powerdown: bool = True,
    ) -> None:
        super().__init__(path)
        self.status = status
        self.received: list[dict[str, Any]] = []
        """Every request of every client, in order, without qmp_capabilities."""
        self._greeting = greeting
        self._greeting_delay_s = greeting_delay_s
        self._negotiation = negotiation
        self._replies = dict(replies or {})
        self._errors = dict(errors or {})
        self._silent = silent
        self._late = late
        self._held = b""
        self._raw = dict(raw or {})
        self._hang_up = hang_up
        self._mid_reply = mid_reply
        self._stray = stray
        self._deaf = deaf
        self._obeys_powerdown = obeys_powerdown
        self._writer: asyncio.StreamWriter | None = None

    @property
    def commands(self) -> list[str]:
        """The names of what was received."""
        return [request["execute"] for request in self.received]

    # What happens to the guest

    def emit(self, event: str, data: Mapping[str, object] | None = None) -> None:
        """Send an event to the client, if there is one."""
        message: dict[str, object] = {
            "event": event,
            "timestamp": {"seconds": 1_700_000_000, "microseconds": 5},
        }
        if data is not None:
            message["data"] = dict(data)
        self.send(json.dumps(message).encode() + b"\r\n")

    def send(self, data: bytes) -> None:
        """Send exactly these bytes to the client, if there is one."""
        if self._writer is not None:
            self._writer.write(data)

    def power_off(self) -> None:
        """Let the guest power off by itself; QEMU keeps it."""
        self.status = "shutdown"
        self.emit("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
        self.emit("STOP")

    def panic(self, info: Mapping[str, object] | None = None) -> None:
        """Let the guest's kernel panic; QEMU keeps it."""
        self.status = "guest-panicked"
        self.emit("GUEST_PANICKED", {"action": "pause"} | ({"info": info} if info else {}))
        self.emit("STOP")

    def answer_late(self) -> None:
        """Send the answers that were held back."""
        held, self._held = self._held, b""
        self.send(held)

    def drop_client(self) -> None:
        """Close the connection in the middle of whatever is under way; it listens on."""
        if self._writer is not None:
            self._writer.transport.abort()

    # What it says

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests = _requests(reader)
        if not await self._greet(writer) or not await self._negotiate(requests, writer):
            return
        self._writer = writer
        try:
            if self._deaf:
                await asyncio.Event().wait()
            async for request in requests:
                if not await self._serve(request, writer):
                    return
        finally:
            self._writer = None

    async def _greet(self, writer: asyncio.StreamWriter) -> bool:
        greeting = json.dumps(_GREETING).encode() + b"\r\n"
        match self._greeting:
            case "late":
                await asyncio.sleep(self._greeting_delay_s)
            case "torn":
                writer.write(greeting[: len(greeting) // 2])
                await writer.drain()
                return False
            case "absent":
                await asyncio.Event().wait()
            case "garbage":
                greeting = b"\x00\xff\x1b[2J SSH-2.0-garbage\r\n"
            case "huge":
                greeting = b'{"QMP": "' + b"x" * (32 << 20)
            case "hangup":
                return False
            case "prompt":
                pass
        writer.write(greeting)
        await writer.drain()
        return True

    async def _negotiate(
        self, requests: AsyncGenerator[dict[str, Any]], writer: asyncio.StreamWriter
    ) -> bool:
        request = await anext(requests, None)
        if request is None:
            return False
        assert request["execute"] == "qmp_capabilities"
        if self._negotiation == "silent":
            await asyncio.Event().wait()
        reply: dict[str, object] = {"return": {}}
        if self._negotiation == "error":
            reply = {"error": {"class": "GenericError", "desc": "no"}}
        writer.write(json.dumps(reply).encode() + b"\r\n")
        await writer.drain()
        return True

    async def _serve(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False to end the connection."""
        command: str = request["execute"]
        self.received.append(request)
        if command in self._hang_up:
            return False
        if command in self._silent:
            return True
        message = self._answer(command)
        if "id" in request:
            message["id"] = request["id"]
        data = json.dumps(message).encode() + b"\r\n"
        if command in self._raw:
            data = self._raw[command].replace(b"%ID%", json.dumps(request.get("id")).encode())
        if command in self._mid_reply:
            writer.write(data[: len(data) // 2])
            await writer.drain()
            return False
        if self._stray:
            writer.write(b'{"return": "for nobody", "id": "somebody else"}\r\n')
            self.emit("RTC_CHANGE", {"offset": 1})
        if command in self._late:
            self._held += data
            return True
        writer.write(data)
        self._act(command)
        await writer.drain()
        return command != "quit"

    def _answer(self, command: str) -> dict[str, object]:
        if command in self._errors:
            return {"error": {"class": "GenericError", "desc": self._errors[command]}}
        known: dict[str, object] = {
            "query-status": {"status": self.status, "running": self.status == "running"},
            "query-version": _GREETING["QMP"]["version"],
            "add-fd": {"fdset-id": 1, "fd": 9},
        }
        known |= {command: {} for command in _WITHOUT_VALUE} | self._replies
        if command not in known:
            return {
                "error": {
                    "class": "CommandNotFound",
                    "desc": f"The command {command} has not been found",
                }
            }
        return {"return": known[command]}

    def _act(self, command: str) -> None:
        """Let a command that was carried out have its effect."""
        if command in self._errors:
            return
        match command:
            case "cont":
                self.status = "running"
            case "stop":
                self.status = "paused"
                self.emit("STOP")
            case "system_powerdown":
                self.emit("POWERDOWN")
                if self._obeys_powerdown:
                    self.power_off()
            case "quit":
                self.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
                self.stop_listening()
            case _:
                pass


async def _requests(reader: asyncio.StreamReader) -> AsyncGenerator[dict[str, Any]]:
    """Yield the client's requests, whatever is between them."""
    decoder = json.JSONDecoder()
    text = ""
    while chunk := await reader.read(1 << 20):
        text = (text + chunk.decode()).lstrip()
        while text:
            try:
                request, end = decoder.raw_decode(text)
            except json.JSONDecodeError:
                break
            text = text[end:].lstrip()
            yield request
