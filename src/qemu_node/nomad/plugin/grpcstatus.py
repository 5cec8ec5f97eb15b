"""Errors as gRPC statuses, and back. Pure.

Owns the only translation in each direction. Does not own which error an RPC raises.

How Nomad's client (2.0.6-dev) treats a status: after FAILED_PRECONDITION with the detail
`RecoverableError{true}` it restarts the task by its restart policy; with `{false}`, or without
details, it does not. `nomad alloc status` shows the text.
"""

from dataclasses import dataclass

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from qemu_node.errors import NodeError, VMNotFoundError
from qemu_node.nomad.plugin.rpc import grpc
from qemu_node.nomad.proto.status_pb2 import Status
from qemu_node.nomad.proto.structs_pb2 import RecoverableError

DETAILS_KEY = "grpc-status-details-bin"
"""The trailer with the details; `-bin` makes gRPC encode it."""

TASK_NOT_FOUND_TEXT = "task not found for given id"
"""Nomad's own text (plugins/drivers/errors.go)."""

_PREFIX = "vm: "
# A header block of more than 8 KiB is refused. It holds the text twice: with three bytes for each
# byte beyond ASCII, and in base64. That is 4.4 bytes for one.
_MAX_TEXT_BYTES = 1500


class TaskNotFoundError(VMNotFoundError):
    """The driver does not know a task of this id."""

    def __init__(self) -> None:
        super().__init__(TASK_NOT_FOUND_TEXT)


class UnsupportedError(NodeError):
    """The driver does not support this; its capabilities say so."""


class PluginError(NodeError):
    """A plugin answered an RPC with an error, or did not answer.

    `code` is gRPC's; `recoverable` is None if the plugin did not say.
    """

    def __init__(
        self, code: grpc.StatusCode, text: str, *, recoverable: bool | None = None
    ) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.recoverable = recoverable


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcStatus:
    """The status of an RPC that fails."""

    code: grpc.StatusCode
    text: str
    details: bytes | None = None
    """Content of the trailer `DETAILS_KEY`."""


def to_status(error: Exception) -> RpcStatus:
    """Return the status that tells Nomad about `error`; INTERNAL for a bug."""
    match error:
        case TaskNotFoundError():
            return RpcStatus(code=grpc.StatusCode.NOT_FOUND, text=TASK_NOT_FOUND_TEXT)
        case UnsupportedError():
            return RpcStatus(code=grpc.StatusCode.UNIMPLEMENTED, text=_text(error.explain()))
        case NodeError():
            code, text = grpc.StatusCode.FAILED_PRECONDITION, _text(error.explain())
            details = encode_details(code, text, recoverable=error.retry)
            return RpcStatus(code=code, text=text, details=details)
        case _:
            text = _text(f"internal error, see the plugin's log: {type(error).__name__}: {error}")
            return RpcStatus(code=grpc.StatusCode.INTERNAL, text=text)


def from_status(code: grpc.StatusCode, text: str, details: bytes | None) -> PluginError:
    """Return the error for a status from a plugin. Details that cannot be read are ignored."""
    if code is grpc.StatusCode.NOT_FOUND and text == TASK_NOT_FOUND_TEXT:
        return PluginError(code, text, recoverable=False)
    return PluginError(code, text, recoverable=_decode_details(details))


def encode_details(code: grpc.StatusCode, text: str, *, recoverable: bool) -> bytes:
    """Return the trailer's content. It repeats code and text, because Go reads them there."""
    detail = AnyMessage()
    detail.Pack(RecoverableError(recoverable=recoverable))
    number: int = code.value[0]
    return Status(code=number, message=text, details=[detail]).SerializeToString()


def _decode_details(details: bytes | None) -> bool | None:
    if details is None:
        return None
    try:
        status = Status.FromString(details)
        flag = RecoverableError()
        if status.details and status.details[0].Unpack(flag):
            return flag.recoverable
    except DecodeError:
        return None
    return None


def _text(message: str) -> str:
    """Return `message` on one line after the driver's name, cut to what a header can hold."""
    line = _PREFIX + " ".join(message.split())
    raw = line.encode("utf-8", "backslashreplace")
    if len(raw) <= _MAX_TEXT_BYTES:
        return raw.decode()
    return raw[:_MAX_TEXT_BYTES].decode(errors="ignore") + " …"
