"""A guest agent behind QEMU's socket that can misbehave."""

import asyncio
import base64
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fakes.unix_peer import UnixPeer

Sync = Literal["ok", "silent", "wrong-id", "no-sentinel", "stale-first"]

_SENTINEL = b"\xff"


@dataclass(frozen=True, kw_only=True)
class FakeProgram:
    """What `guest-exec` of a path does.

    `polls` is how often guest-exec-status says "still running"; -1: for ever.
    """

    exit_code: int | None = 0
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: bool = False
    polls: int = 0


class FakeQga(UnixPeer):
    """A guest agent: it resynchronises, answers the commands below, and runs made-up programs.

    async with FakeQga(tmp_path / "qga.sock", programs={"uptime": FakeProgram()}) as guest:
        agent = GuestAgent(guest.path, tmp_path / "qga.lock")

    Args:
        path: Where QEMU listens. Nobody behind it: `sync="silent"`.
        replies: What commands return beside those it knows, or instead: a value, or a function of
            the arguments.
        errors: Descriptions with which commands are refused.
        programs: What `guest-exec` can start, by path. Any other path is refused.
        disabled: Commands that the guest's administrator has switched off.
        sync: `silent`: no answer; `wrong-id`: another's; `no-sentinel`: without the byte 0xFF;
            `stale-first`: another's, then the right one.
        silent: Commands that are taken and never answered.
        late: Commands whose answer comes when the next client connects.
        raw: Bytes sent instead of a reply.
        stale: Bytes that the first client finds, left over from an earlier one.
        hang_up: Commands at which the connection is closed without a reply.
        mid_reply: Commands at which it is closed within the reply.
        flood: Commands answered by bytes without end: `noise` holds no newline, `lines` do.
        drip_s: Seconds between single bytes of every reply.
        chunk_bytes: Send replies in pieces of this size.

    As the real one, it answers 0xFF in a request with an error, and guest-shutdown with nothing.
    """

    def __init__(
        self,
        path: Path,
        *,
        replies: Mapping[str, object] | None = None,
        errors: Mapping[str, str] | None = None,
        programs: Mapping[str, FakeProgram] | None = None,
        disabled: Collection[str] = (),
        sync: Sync = "ok",
        silent: Collection[str] = (),
        late: Collection[str] = (),
        raw: Mapping[str, bytes] | None = None,
        stale: bytes = b"",
        hang_up: Collection[str] = (),
        mid_reply: Collection[str] = (),
        flood: Mapping[str, Literal["noise", "lines"]] | None = None,
        drip_s: float = 0.0,
        chunk_bytes: int | None = None,
    ) -> None:
        super().__init__(path)
        self.received: list[dict[str, Any]] = []
        """Every request of every client, in order, without guest-sync-delimited."""
        self.shutdown_mode: str | None = None
        """The mode of the guest-shutdown that was taken."""
        self._replies = dict(replies or {})
        self._errors = dict(errors or {})
        self._programs = dict(programs or {})
        self._disabled = disabled
        self._sync = sync
        self._silent = silent
        self._late = late
        self._raw = dict(raw or {})
        self._pending = stale
        self._hang_up = hang_up
        self._mid_reply = mid_reply
        self._flood = dict(flood or {})
        self._drip_s = drip_s
        self._chunk_bytes = chunk_bytes
        self._running: dict[int, tuple[FakeProgram, int]] = {}
        self._known: dict[str, Callable[[dict[str, Any]], object]] = {
            "guest-ping": lambda _: {},
            "guest-info": self._info,
            "guest-get-host-name": lambda _: {"host-name": "guest"},
            "guest-get-osinfo": lambda _: {"id": "debian", "pretty-name": "Debian GNU/Linux 13"},
            "guest-network-get-interfaces": lambda _: _INTERFACES,
            "guest-exec": self._exec,
            "guest-exec-status": self._exec_status,
        }

    @property
    def commands(self) -> list[str]:
        """The names of what was received."""
        return [request["execute"] for request in self.received]

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pending, self._pending = self._pending, b""
        writer.write(pending)
        while line := await reader.readline():
            torn, sentinel, request = line.rpartition(_SENTINEL)
            if sentinel:
                desc = f"JSON parse error, stray '{torn.decode(errors='replace')}\ufffd'"
                await self._send(writer, _error(desc))
            if not await self._serve(json.loads(request), writer):
                return

    async def _serve(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False to end the connection."""
        command, arguments = request["execute"], request.get("arguments", {})
        if command in self._flood:
            await _flood(writer, self._flood[command])
        if command == "guest-sync-delimited":
            await self._synchronise(arguments["id"], writer)
            return True
        self.received.append(request)
        if command in self._hang_up:
            return False
        if command in self._silent:
            return True
        data = self._raw[command] if command in self._raw else self._answer(command, arguments)
        if command in self._late:
            self._pending += data
            return True
        if command in self._mid_reply:
            await self._send(writer, data[: len(data) // 2])
            return False
        await self._send(writer, data)
        return True

    async def _synchronise(self, sync_id: int, writer: asyncio.StreamWriter) -> None:
        right = b'{"return": %d}\n' % sync_id
        wrong = b'{"return": %d}\n' % (sync_id ^ 1)
        match self._sync:
            case "ok":
                await self._send(writer, _SENTINEL + right)
            case "silent":
                pass
            case "wrong-id":
                await self._send(writer, _SENTINEL + wrong)
            case "no-sentinel":
                await self._send(writer, right)
            case "stale-first":
                await self._send(writer, _SENTINEL + wrong + b'{"return": {}}\n')
                await self._send(writer, _SENTINEL + right)

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        size = 1 if self._drip_s else self._chunk_bytes or max(len(data), 1)
        for begin in range(0, len(data), size):
            writer.write(data[begin : begin + size])
            await writer.drain()
            if self._drip_s or self._chunk_bytes:
                await asyncio.sleep(self._drip_s)

    def _answer(self, command: str, arguments: dict[str, Any]) -> bytes:
        """Return the bytes that answer a command."""
        if command in self._errors:
            return _error(self._errors[command])
        if command in self._disabled:
            return _error(f"Command {command} has been disabled")
        if command == "guest-shutdown":
            self.shutdown_mode = arguments.get("mode", "powerdown")
            return b""
        if command in self._replies:
            reply = self._replies[command]
            value = reply(arguments) if callable(reply) else reply
        elif command in self._known:
            try:
                value = self._known[command](arguments)
            except LookupError as exc:
                return _error(str(exc.args[0]))
        else:
            return _error(f"The command {command} has not been found")
        return json.dumps({"return": value}).encode() + b"\n"

    def _info(self, _: dict[str, Any]) -> object:
        names = {*self._known, *self._replies, "guest-shutdown", "guest-sync-delimited"}
        return {
            "version": "10.0.2",
            "supported_commands": [
                {"name": name, "enabled": name not in self._disabled, "success-response": True}
                for name in sorted(names)
            ],
        }

    def _exec(self, arguments: dict[str, Any]) -> object:
        path = arguments["path"]
        if path not in self._programs:
            raise LookupError(f"Guest agent command failed, error was 'no {path}'")
        pid = 1000 + len(self.received)
        program = self._programs[path]
        self._running[pid] = (program, program.polls)
        return {"pid": pid}

    def _exec_status(self, arguments: dict[str, Any]) -> object:
        pid = arguments["pid"]
        if pid not in self._running:
            raise LookupError("Invalid parameter 'pid'")
        program, polls = self._running.pop(pid)
        if polls:
            self._running[pid] = (program, polls - 1)
            return {"exited": False}
        status: dict[str, object] = {"exited": True}
        if program.signal is not None:
            status["signal"] = program.signal
        elif program.exit_code is not None:
            status["exitcode"] = program.exit_code
        for name, data in (("out", program.stdout), ("err", program.stderr)):
            if data:
                status[f"{name}-data"] = base64.b64encode(data).decode()
                status[f"{name}-truncated"] = program.truncated
        return status


_INTERFACES: Sequence[Mapping[str, object]] = (
    {
        "name": "lo",
        "hardware-address": "00:00:00:00:00:00",
        "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}],
    },
    {
        "name": "enp1s0",
        "hardware-address": "52:54:00:12:34:56",
        "ip-addresses": [
            {"ip-address": "10.0.2.15", "ip-address-type": "ipv4", "prefix": 24},
            {"ip-address": "fe80::5054:ff:fe12:3456", "ip-address-type": "ipv6", "prefix": 64},
        ],
    },
)


def _error(desc: str) -> bytes:
    return json.dumps({"error": {"class": "GenericError", "desc": desc}}).encode() + b"\n"


async def _flood(writer: asyncio.StreamWriter, kind: Literal["noise", "lines"]) -> None:
    """Write until the client is gone."""
    chunk = (b"x" * 63 + (b"\n" if kind == "lines" else b"x")) * 1024
    while True:
        writer.write(chunk)
        await writer.drain()
        await asyncio.sleep(0)
