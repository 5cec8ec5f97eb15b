"""The guest agent's bytes: requests out, lines and replies in. Pure.

Owns framing, resynchronisation and the bounds that make a hostile guest's bytes safe to read. Does
not own the socket or the deadline (`session`).

The protocol is JSON, one object per line, without ids or order across clients: a reply may belong
to a client that is gone. `guest-sync-delimited` is the cure (qga/qapi-schema.json): the byte 0xFF,
which no JSON holds, makes the agent forget a torn request, and the agent sends the same byte ahead
of its answer, so that all before it can be thrown away. To the 0xFF itself qemu-ga 7.2 also answers
with an error, which comes before the answer and goes the same way.
"""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from qemu_node.errors import GuestAgentError
from qemu_node.text import DECODE_ERRORS, printable

T = TypeVar("T")

SENTINEL = b"\xff"

LINE_MAX_BYTES = 1 << 20
"""Longest reply to every command but guest-exec-status."""

OUTPUT_MAX_BYTES = 16 << 20
"""What qemu-ga keeps of each of a program's two outputs (GUEST_EXEC_MAX_OUTPUT, qga/commands.c)."""

EXEC_LINE_MAX_BYTES = 2 * (OUTPUT_MAX_BYTES * 4 // 3 + 4) + 4096
"""Longest reply to guest-exec-status: both outputs in base64, and the rest of the object."""

_BRACKETS_MAX = 32


class _Reply(msgspec.Struct):
    """One line. Its members stay raw until it is known what they should be: junk costs nothing."""

    value: msgspec.Raw = msgspec.field(name="return", default=msgspec.Raw())
    error: msgspec.Raw = msgspec.Raw()
    id: msgspec.Raw = msgspec.Raw()


class _Error(msgspec.Struct):
    desc: str = ""


class AgentRefusedError(GuestAgentError):
    """The agent answered with an error; the command was not carried out."""


def encode_request(command: str, arguments: Mapping[str, object]) -> bytes:
    """Return the line that asks for `command`.

    It carries no id: qemu-ga before 3.0 refuses the member.

    Raises:
        GuestAgentError: an argument is text that UTF-8 cannot say.
    """
    request: dict[str, object] = {"execute": command}
    if arguments:
        request["arguments"] = arguments
    try:
        return msgspec.json.encode(request) + b"\n"
    except UnicodeEncodeError as exc:
        raise GuestAgentError(f"an argument of {command} is not valid text") from exc


def encode_sync(sync_id: int) -> bytes:
    """Return what makes the agent begin anew and answer with `sync_id` behind a sentinel."""
    return SENTINEL + encode_request("guest-sync-delimited", {"id": sync_id})


def is_sync_reply(line: bytes, sync_id: int) -> bool:
    """Tell whether `line` answers `encode_sync(sync_id)`; no line makes it raise."""
    try:
        return decode_reply(line, "guest-sync-delimited", int) == sync_id
    except GuestAgentError:
        return False


def decode_reply(line: bytes, command: str, kind: type[T]) -> T | None:
    """Return the value in a reply to `command`, as `kind`; None for a reply to somebody else.

    Bytes that are no UTF-8 are replaced, of duplicate members the last counts.

    Raises:
        AgentRefusedError: the reply is an error; the message holds the guest's words, made safe.
        GuestAgentError: it is no reply, or its value is no `kind`.
    """
    try:
        reply = msgspec.json.decode(_checked(line), type=_Reply)
        if bytes(reply.id):
            # We send none, so it answers a client that did.
            return None
        if bytes(reply.error):
            said = printable(msgspec.json.decode(reply.error, type=_Error).desc)
            raise AgentRefusedError(f"{command} failed in the guest: {said or 'no reason given'}")
        if not bytes(reply.value):
            raise GuestAgentError(f"the guest agent's reply to {command} is no reply")
        return msgspec.json.decode(reply.value, type=kind)
    except DECODE_ERRORS as exc:
        raise GuestAgentError(
            f"the guest agent's reply to {command} is malformed: {printable(str(exc))}"
        ) from exc


def _checked(line: bytes) -> bytes:
    """Return `line` as valid UTF-8; how deep it is nested is left to msgspec (`DECODE_ERRORS`).

    Raises:
        GuestAgentError: it is long and not what a long reply is, one flat object that holds base64.
    """
    if len(line) > LINE_MAX_BYTES and line.count(b"[") + line.count(b"{") > _BRACKETS_MAX:
        raise GuestAgentError("the guest agent's reply is too long for what it holds")
    return line if line.isascii() else line.decode(errors="replace").encode()


class LineReader:
    """Cuts what the agent sends into lines, however it was cut on its way.

    Holds at most the longest line asked for and one chunk.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._is_skipping = False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._buffer += chunk
        if self._is_skipping:
            self.skip_to_sentinel()

    def reset(self) -> None:
        """Forget all that came until now, and what follows up to the next sentinel."""
        self._buffer.clear()
        self.skip_to_sentinel()

    def skip_to_sentinel(self) -> None:
        """Throw away everything up to the next sentinel, now or when it comes."""
        at = self._buffer.find(SENTINEL)
        self._is_skipping = at < 0
        del self._buffer[: at + 1 if at >= 0 else len(self._buffer)]
        self._scanned = 0

    def next_line(self, max_bytes: int) -> bytes | None:
        """Return the next line that holds anything, without its end; None until it is whole.

        A sentinel inside a line means that the line begins anew there.

        Raises:
            GuestAgentError: it is longer than `max_bytes`; the reader is of no more use.
        """
        while not self._is_skipping:
            end = self._buffer.find(b"\n", self._scanned)
            self._scanned = len(self._buffer)
            if (end if end >= 0 else self._scanned) > max_bytes:
                raise GuestAgentError(f"the guest agent's reply is longer than {max_bytes} bytes")
            if end < 0:
                return None
            line = bytes(self._buffer[:end]).rpartition(SENTINEL)[2].strip()
            del self._buffer[: end + 1]
            self._scanned = 0
            if line:
                return line
        return None
