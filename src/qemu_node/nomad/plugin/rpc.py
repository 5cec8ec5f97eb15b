"""gRPC for both sides of the plugin protocol: the library's settings, and methods as values.

Owns the import of grpc, the options of servers and channels, and reading service descriptors. Does
not own what a method does (`server`, `agent.pluginclient`) nor how errors are sent (`grpcstatus`).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

# grpc reads both when it is imported. With fork support, C-core aborts a child that we start while
# calls are open (grpcio 1.85). And gRPC's own log lines on stderr are not JSON.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import grpc.aio

__all__ = ["CHANNEL_OPTIONS", "SERVER_OPTIONS", "Method", "grpc", "methods_of", "unix_target"]

_UNLIMITED = -1
# The Go side has no limits, and a task handle holds the whole environment of its task.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", _UNLIMITED),
    ("grpc.max_send_message_length", _UNLIMITED),
)
# Two calls are open for each VM. Without filters that a client on this machine does not need
# (GRPC_ARG_MINIMAL_STACK in grpc/impl/channel_arg_names.h), each takes 1.6 KiB less.
SERVER_OPTIONS = (*CHANNEL_OPTIONS, ("grpc.minimal_stack", 1))

_WORD_START = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One RPC of a service: its path on the wire, its Python name and its messages."""

    path: str
    """`/<service>/<Method>`, what HTTP/2 carries."""
    python_name: str
    """The RPC's name in snake case, as in `service`."""
    request: type[Message]
    response: type[Message]
    is_client_streaming: bool
    is_server_streaming: bool


def methods_of(service: ServiceDescriptor) -> Mapping[str, Method]:
    """Return the RPCs of `service` by their name on the wire."""
    return {
        method.name: Method(
            path=f"/{service.full_name}/{method.name}",
            python_name=_WORD_START.sub("_", method.name).lower(),
            request=GetMessageClass(method.input_type),
            response=GetMessageClass(method.output_type),
            is_client_streaming=method.client_streaming,
            is_server_streaming=method.server_streaming,
        )
        for method in service.methods
    }


def unix_target(path: Path) -> str:
    """Return gRPC's name of the unix socket at absolute `path`, for listening and dialling.

    gRPC parses it as a URI, so a space or `%` in the path must be escaped.
    """
    return f"unix:{quote(os.fsencode(path))}"
