"""The guest agent's values, as the guest sends them and as this package uses them: pure.

Owns making a hostile guest's values safe to show and log: text is one printable line of bounded
length, lists are bounded, addresses are valid. Does not own the reply around them (`wire`). Names
are those of QEMU's qga/qapi-schema.json.
"""

import ipaddress
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from qemu_node.errors import GuestAgentError
from qemu_node.text import printable

_LIST_MAX = 256
_ADDRESSES_MAX = 64
_SIZE_MAX = 1 << 63
_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")


class Nothing(msgspec.Struct):
    """An object whose members are ignored."""


class RawCommand(msgspec.Struct):
    """GuestAgentCommandInfo."""

    name: str
    enabled: bool


class RawInfo(msgspec.Struct):
    """GuestAgentInfo."""

    version: str
    supported_commands: list[RawCommand]


class RawOsInfo(msgspec.Struct, rename="kebab"):
    """GuestOSInfo; every member is optional."""

    id: str = ""
    name: str = ""
    pretty_name: str = ""
    version: str = ""
    version_id: str = ""
    machine: str = ""
    kernel_release: str = ""


class RawHostName(msgspec.Struct, rename="kebab"):
    """GuestHostName."""

    host_name: str


class RawAddress(msgspec.Struct, rename="kebab"):
    """GuestIpAddress."""

    ip_address: str


class RawInterface(msgspec.Struct, rename="kebab"):
    """GuestNetworkInterface."""

    name: str
    hardware_address: str = ""
    ip_addresses: list[RawAddress] = []


class RawFilesystem(msgspec.Struct, rename="kebab"):
    """GuestFilesystemInfo; the sizes are there if the guest knows them."""

    mountpoint: str
    name: str = ""
    type: str = ""
    used_bytes: int | None = None
    total_bytes: int | None = None


class RawUser(msgspec.Struct, rename="kebab"):
    """GuestUser; the time is in seconds since 1970."""

    user: str
    login_time: float = 0.0


class RawLoad(msgspec.Struct):
    """GuestLoadAverage, since QEMU 9.1."""

    load1m: float
    load5m: float
    load15m: float


class RawExec(msgspec.Struct):
    """GuestExec."""

    pid: int


class RawExecStatus(msgspec.Struct, rename="kebab"):
    """GuestExecStatus; the data is base64."""

    exited: bool
    exitcode: int | None = None
    signal: int | None = None
    out_data: bytes = b""
    err_data: bytes = b""
    out_truncated: bool = False
    err_truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentInfo:
    """The agent's version and its enabled commands."""

    version: str
    enabled: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OsInfo:
    """The guest's operating system as the guest names it; empty if it does not say."""

    id: str
    name: str
    pretty_name: str
    version: str
    version_id: str
    machine: str
    kernel_release: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestInterface:
    """A network interface of the guest."""

    name: str
    mac: str
    """Lower case with colons; empty if it has none."""
    addresses: tuple[str, ...]
    """IPv4 and IPv6, without prefix length or zone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFilesystem:
    """A file system that the guest has mounted."""

    mountpoint: str
    name: str
    type: str
    used_bytes: int | None
    total_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestUser:
    """Somebody who is logged in to the guest."""

    name: str
    login_time_s: float
    """Unix time, as the guest says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestLoad:
    """How many of the guest's programs wanted to run, on average."""

    over_1_min: float
    over_5_min: float
    over_15_min: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """How a program in the guest ended, and what it printed."""

    exit_code: int
    """-2^31 to 2^31 - 1; 128 + N if signal N ended it, as in shells."""
    signal: int | None
    """The signal, or the exception code on Windows, that ended it."""
    stdout: bytes
    stderr: bytes
    truncated: bool
    """It printed more than the agent keeps, 16 MiB of stdout and of stderr."""


def agent_info(raw: RawInfo) -> AgentInfo:
    """Return `raw` made safe."""
    # qemu-ga 10 has about 60 commands.
    commands = raw.supported_commands[: 4 * _LIST_MAX]
    return AgentInfo(
        version=printable(raw.version),
        enabled=frozenset(printable(command.name) for command in commands if command.enabled),
    )


def os_info(raw: RawOsInfo) -> OsInfo:
    """Return `raw` made safe."""
    return OsInfo(
        id=printable(raw.id),
        name=printable(raw.name),
        pretty_name=printable(raw.pretty_name),
        version=printable(raw.version),
        version_id=printable(raw.version_id),
        machine=printable(raw.machine),
        kernel_release=printable(raw.kernel_release),
    )


def interfaces(raw: Sequence[RawInterface]) -> list[GuestInterface]:
    """Return `raw` made safe. Invalid addresses are left out."""
    return [
        GuestInterface(
            name=printable(interface.name),
            mac=_mac(interface.hardware_address),
            addresses=_addresses(interface.ip_addresses),
        )
        for interface in raw[:_LIST_MAX]
    ]


def filesystems(raw: Sequence[RawFilesystem]) -> list[GuestFilesystem]:
    """Return `raw` made safe."""
    return [
        GuestFilesystem(
            mountpoint=printable(item.mountpoint),
            name=printable(item.name),
            type=printable(item.type),
            used_bytes=_size(item.used_bytes),
            total_bytes=_size(item.total_bytes),
        )
        for item in raw[:_LIST_MAX]
    ]


def users(raw: Sequence[RawUser]) -> list[GuestUser]:
    """Return `raw` made safe."""
    return [
        GuestUser(name=printable(item.user), login_time_s=_number(item.login_time))
        for item in raw[:_LIST_MAX]
    ]


def load(raw: RawLoad) -> GuestLoad:
    """Return `raw` made safe."""
    return GuestLoad(
        over_1_min=_number(raw.load1m),
        over_5_min=_number(raw.load5m),
        over_15_min=_number(raw.load15m),
    )


def _size(value: int | None) -> int | None:
    return value if value is not None and 0 <= value < _SIZE_MAX else None


def _number(value: float) -> float:
    # JSON of ours is to be read by others, which stop at 2^53.
    return value if math.isfinite(value) and 0 <= value < 1 << 53 else 0.0


def _mac(text: str) -> str:
    mac = text.lower()
    return mac if _MAC.match(mac) and mac != "00:00:00:00:00:00" else ""


def _addresses(raw: Sequence[RawAddress]) -> tuple[str, ...]:
    found = []
    for item in raw[:_ADDRESSES_MAX]:
        try:
            found.append(str(ipaddress.ip_address(item.ip_address.partition("%")[0])))
        except ValueError:
            continue
    return tuple(found)


def exec_result(raw: RawExecStatus) -> ExecResult:
    """Return how a program that has exited ended.

    Raises:
        GuestAgentError: the agent does not say how it ended, or says something impossible.
    """
    if raw.exitcode is not None:
        code, signal = raw.exitcode, None
    elif raw.signal is not None:
        code, signal = (128 + raw.signal if 0 < raw.signal < 128 else 255), raw.signal
    else:
        raise GuestAgentError("the guest agent does not say how the command ended")
    # Windows has unsigned exit codes of 32 bits; Nomad's are signed.
    if not -(1 << 31) <= code < 1 << 32 or (signal is not None and not 0 <= signal < 1 << 32):
        raise GuestAgentError("the guest agent reports an impossible exit code")
    return ExecResult(
        exit_code=code - (1 << 32) if code >= 1 << 31 else code,
        signal=signal,
        stdout=raw.out_data,
        stderr=raw.err_data,
        truncated=raw.out_truncated or raw.err_truncated,
    )
