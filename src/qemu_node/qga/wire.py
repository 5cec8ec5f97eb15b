"""The guest agent's messages as bytes: requests, lines, replies. Pure.

Owns framing, resynchronisation, and the limits that make a hostile guest's bytes safe to read.
Does not own the socket or the deadline (`agentsession`).

The protocol is JSON, one object in a line, without ids. So a reply may belong to a client that is
gone. `guest-sync-delimited` solves this (qga/qapi-schema.json). The byte 0xFF, which JSON never
contains, makes the agent drop an incomplete request. The agent sends the same byte before its
answer, so that all before it can be discarded. qemu-ga 7.2 also answers the 0xFF itself with an
error, which comes first and is discarded, too.
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
"""How much qemu-ga keeps of a program's stdout, and of its stderr (GUEST_EXEC_MAX_OUTPUT,
qga/commands.c)."""

EXEC_LINE_MAX_BYTES = 2 * (OUTPUT_MAX_BYTES * 4 // 3 + 4) + 4096
"""Longest reply to guest-exec-status: both outputs in base64, and the rest of the object."""

_BRACKETS_MAX = 32


class _Reply(msgspec.Struct):
    """One line. Its members are decoded only when their type is known, so junk costs nothing."""

    value: msgspec.Raw = msgspec.field(name="return", default=msgspec.Raw())
    error: msgspec.Raw = msgspec.Raw()
    id: msgspec.Raw = msgspec.Raw()


class _Error(msgspec.Struct):
    desc: str = ""


class AgentRefusedError(GuestAgentError):
    """The agent answered with an error; the command was not carried out."""


def encode_request(command: str, arguments: Mapping[str, object]) -> bytes:
    """Return the request line for `command`.

    It has no id: qemu-ga before 3.0 refuses that member.

    Raises:
        GuestAgentError: an argument cannot be encoded as UTF-8.
    """
    request: dict[str, object] = {"execute": command}
    if arguments:
        request["arguments"] = arguments
    try:
        return msgspec.json.encode(request) + b"\n"
    except UnicodeEncodeError as exc:
        raise GuestAgentError(f"an argument of {command} is not valid text") from exc


def encode_sync(sync_id: int) -> bytes:
    """Return the bytes that make the agent begin again and answer a sentinel, then `sync_id`."""
    return SENTINEL + encode_request("guest-sync-delimited", {"id": sync_id})


def is_sync_reply(line: bytes, sync_id: int) -> bool:
    """Tell whether `line` answers `encode_sync(sync_id)`. Never raises."""
    try:
        return decode_reply(line, "guest-sync-delimited", int) == sync_id
    except GuestAgentError:
        return False


def decode_reply(line: bytes, command: str, kind: type[T]) -> T | None:
    """Return the value in a reply to `command`, as `kind`; None for a reply to another client.

    Bytes that are not UTF-8 are replaced. Of duplicate members the last counts.

    Raises:
        AgentRefusedError: the reply is an error; the message has the guest's text, made printable.
        GuestAgentError: it is not a reply, or its value is not a `kind`.
    """
    try:
        reply = msgspec.json.decode(_checked(line), type=_Reply)
        if bytes(reply.id):
            # We send no id, so this answers another client.
            return None
        if bytes(reply.error):
            said = printable(msgspec.json.decode(reply.error, type=_Error).desc)
            raise AgentRefusedError(f"{command} failed in the guest: {said or 'no reason given'}")
        if not bytes(reply.value):
            raise GuestAgentError(
                f"the guest agent's reply to {command} has neither a value nor an error"
            )
        return msgspec.json.decode(reply.value, type=kind)
    except DECODE_ERRORS as exc:
        raise GuestAgentError(
            f"the guest agent's reply to {command} is malformed: {printable(str(exc))}"
        ) from exc


def _checked(line: bytes) -> bytes:
    """Return `line` as valid UTF-8. msgspec checks how deep it is nested (`DECODE_ERRORS`).

    Raises:
        GuestAgentError: it is long, but not a flat object with base64, the only long reply.
    """
    if len(line) > LINE_MAX_BYTES and line.count(b"[") + line.count(b"{") > _BRACKETS_MAX:
        raise GuestAgentError("the guest agent's reply is too long for what it holds")
    return line if line.isascii() else line.decode(errors="replace").encode()


class LineReader:
    """Splits what the agent sends into lines, whatever chunks arrive.

    It holds at most the longest requested line and one chunk.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._is_skipping = False

    def feed(self, chunk: bytes) -> None:
        """Add the next bytes."""
        self._buffer += chunk
        if self._is_skipping:
            self.skip_to_sentinel()

    def reset(self) -> None:
        """Discard all bytes so far, and those up to the next sentinel."""
        self._buffer.clear()
        self.skip_to_sentinel()

    def skip_to_sentinel(self) -> None:
        """Discard all bytes up to the next sentinel, now or when it comes."""
        at = self._buffer.find(SENTINEL)
        self._is_skipping = at < 0
        del self._buffer[: at + 1 if at >= 0 else len(self._buffer)]
        self._scanned = 0

    def next_line(self, max_bytes: int) -> bytes | None:
        """Return the next line that is not empty, without its newline; None until it is complete.

        After a sentinel inside a line, the line begins again.

        Raises:
            GuestAgentError: the line is longer than `max_bytes`; the reader cannot be used any
                more.
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
