"""What a viewer sends of the RFB protocol, message by message: pure.

Owns which of it reaches QEMU. RFC 6143 and the extensions that QEMU has; lengths as noVNC 1.7 and
QEMU 7.2 (ui/vnc.c) have them. Nothing that the server sends is parsed: QEMU offers no
authentication on its unix socket, so what a viewer sends can be told without it.

- A view-only viewer's keys, pointer and sizes do not pass: noVNC's `viewOnly` is a matter of
  the viewer's own goodwill.
- Nobody's clipboard passes: no VM has an agent for it, and QEMU's parser of it had CVE-2023-6683.
- Every viewer asks for a shared screen: one that asks for it alone would be refused.
"""

from enum import StrEnum
from typing import Final

from qemu_node.errors import NodeError

ENCODINGS_MAX = 256
"""noVNC names about thirty."""

_VERSIONS: Final = (b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.008\n")
_SECURITY_NONE: Final = 1

_SET_PIXEL_FORMAT: Final = 0
_SET_ENCODINGS: Final = 2
_UPDATE_REQUEST: Final = 3
_KEY: Final = 4
_POINTER: Final = 5
_CUT_TEXT: Final = 6
_XVP: Final = 250
_SET_DESKTOP_SIZE: Final = 251
_QEMU: Final = 255
_QEMU_KEY: Final = 0

_FIXED: Final = {
    _SET_PIXEL_FORMAT: 20,
    _UPDATE_REQUEST: 10,
    _KEY: 8,
    _POINTER: 6,
    _XVP: 4,
}
_INPUT: Final = frozenset({_KEY, _POINTER, _XVP, _SET_DESKTOP_SIZE, _QEMU})
_QEMU_KEY_BYTES: Final = 12
_HELD_MAX: Final = 64
"""More fingers than anybody has."""


class RfbError(NodeError):
    """A viewer does not speak RFB as it is spoken here."""


class _Phase(StrEnum):
    VERSION = "version"
    SECURITY = "security"
    INIT = "init"
    OPEN = "open"


class ClientParser:
    """One viewer's side of one connection."""

    def __init__(self, *, is_control: bool) -> None:
        """Let keys, pointer and sizes pass only with `is_control`."""
        self._is_control = is_control
        self._phase = _Phase.VERSION
        self._unread = b""
        self._skip_bytes = 0
        self._held: dict[bytes, bytes] = {}
        """Which keys are down: the message that releases each."""

    def feed(self, data: bytes) -> bytes:
        """Return what QEMU is sent of `data` and of what came before; whole messages only.

        Raises:
            RfbError: the connection has to end.
        """
        unread = self._unread + data if self._unread else data
        passed = bytearray()
        at = 0
        while at < len(unread):
            if self._skip_bytes:
                skipped = min(self._skip_bytes, len(unread) - at)
                self._skip_bytes -= skipped
                at += skipped
                continue
            size = self._size(unread, at)
            if size is None or at + size > len(unread):
                break
            message = unread[at : at + size]
            at += size
            passed += self._passed(message)
        self._unread = bytes(unread[at:])
        return bytes(passed)

    def releases(self) -> bytes:
        """Return the messages that release what this viewer still holds down."""
        held, self._held = self._held, {}
        return b"".join(held.values())

    def _size(self, unread: bytes, at: int) -> int | None:
        """Return the size of the message that begins at `at`; None: more is needed to tell."""
        match self._phase:
            case _Phase.VERSION:
                return 12
            case _Phase.SECURITY | _Phase.INIT:
                return 1
            case _Phase.OPEN:
                return _size_of_message(unread, at)

    def _passed(self, message: bytes) -> bytes:
        match self._phase:
            case _Phase.VERSION:
                if message not in _VERSIONS:
                    raise RfbError("the viewer does not speak RFB 3.3, 3.7 or 3.8")
                is_33 = message == _VERSIONS[0]
                self._phase = _Phase.INIT if is_33 else _Phase.SECURITY
                return message
            case _Phase.SECURITY:
                if message[0] != _SECURITY_NONE:
                    raise RfbError("the viewer wants to log in a second time")
                self._phase = _Phase.INIT
                return message
            case _Phase.INIT:
                self._phase = _Phase.OPEN
                return b"\x01"
            case _Phase.OPEN:
                return self._passed_open(message)

    def _passed_open(self, message: bytes) -> bytes:
        kind = message[0]
        if kind == _CUT_TEXT:
            self._skip_bytes = abs(int.from_bytes(message[4:8], "big", signed=True))
            return b""
        if kind in _INPUT and not self._is_control:
            return b""
        if kind == _KEY:
            self._note_key(message[:1] + message[4:], message[1], b"\4\0" + message[2:])
        elif kind == _QEMU:
            is_down = int.from_bytes(message[2:4], "big")
            self._note_key(message[:1] + message[8:], is_down, message[:2] + b"\0\0" + message[4:])
        return message

    def _note_key(self, key: bytes, is_down: int, release: bytes) -> None:
        if not is_down:
            self._held.pop(key, None)
        elif len(self._held) < _HELD_MAX:
            self._held[key] = release


def _size_of_message(unread: bytes, at: int) -> int | None:
    kind = unread[at]
    if kind in _FIXED:
        return _FIXED[kind]
    have = len(unread) - at
    match kind:
        case 2:  # _SET_ENCODINGS
            if have < 4:
                return None
            count = int.from_bytes(unread[at + 2 : at + 4], "big")
            if count > ENCODINGS_MAX:
                raise RfbError(f"the viewer names {count} encodings")
            return 4 + 4 * count
        case 6:  # _CUT_TEXT: its header; the text is skipped.
            return 8
        case 251:  # _SET_DESKTOP_SIZE
            return None if have < 8 else 8 + 16 * unread[at + 6]
        case 255:  # _QEMU
            if have < 2:
                return None
            if unread[at + 1] != _QEMU_KEY:
                raise RfbError(f"the viewer sends QEMU's message {unread[at + 1]}")
            return _QEMU_KEY_BYTES
        case _:
            raise RfbError(f"the viewer sends a message of unknown type {kind}")
