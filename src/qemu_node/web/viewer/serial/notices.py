"""What viewers of a serial port are told beside its bytes, as JSON: pure.

Owns the types. Does not own when they are told (`hub`).
"""

from typing import Literal

import msgspec

PortState = Literal["opening", "open", "taken", "lost"]
"""`taken`: a client that does not share has it, such as a `vm console` that began without a web
console. `lost`: QEMU cannot be reached, and its VM has not ended."""


class PortNotice(msgspec.Struct, frozen=True, tag="port", tag_field="type"):
    """How it is with the port."""

    state: PortState


class ViewerView(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who is there."""

    id: int
    name: str
    may_type: bool


class ViewersNotice(msgspec.Struct, frozen=True, kw_only=True, tag="viewers", tag_field="type"):
    """Who is there, and who typed last."""

    you: int
    viewers: list[ViewerView]
    typing: int | None


class DroppedNotice(msgspec.Struct, frozen=True, tag="dropped", tag_field="type"):
    """Input of this viewer that the guest did not get: it takes none, or the port is not open."""

    bytes: int


def encode(notice: msgspec.Struct) -> str:
    """Return a notice as it is sent."""
    return msgspec.json.encode(notice).decode()
