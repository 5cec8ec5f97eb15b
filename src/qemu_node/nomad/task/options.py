"""The options of a job's `config` block, and of the operator's `plugin` block.

Owns names, types, defaults and checks, each once: the schema that Nomad checks a job against is
made of the same declarations that its values are decoded by. Pure: no option is compared with the
host, nor with what the operator allows.

What arrives is MessagePack as go-cty writes it: a map with every key of the schema, nil where the
job is silent; whole numbers as integers, others as floats or, where a float64 is inexact, as
strings; variables filled in. Absent block lists are empty, absent blocks nil (Nomad 2.0.6-dev).
"""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec

from qemu_node.errors import ConfigError, JobError, NodeError
from qemu_node.net.mac import parse_mac
from qemu_node.net.portspec import MAX_QUEUES, MTU_MAX, MTU_MIN
from qemu_node.nomad.plugin import hclspec
from qemu_node.nomad.proto.hclspec_pb2 import Spec
from qemu_node.qemu.devices import MAX_NICS
from qemu_node.qemu.spec import FirmwareMode, OsFamily
from qemu_node.text import nearest
from qemu_node.units import parse_duration, parse_size
from qemu_node.vlans import VID_MAX, VID_MIN, parse_vlans

ADVERTISE_MAX_S = 600.0
"""Longest that a start may wait for a guest's address; the task is pending meanwhile."""

_MAX_VALUE_CHARS = 120
_MAX_RATE_MBIT = 1_000_000

_NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
_GuestPort = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Vlan = Annotated[int, msgspec.Meta(ge=VID_MIN, le=VID_MAX)]
_Queues = Annotated[int, msgspec.Meta(ge=1, le=MAX_QUEUES)]
_Mtu = Annotated[int, msgspec.Meta(ge=MTU_MIN, le=MTU_MAX)]
_Rate = Annotated[int, msgspec.Meta(ge=1, le=_MAX_RATE_MBIT)]


@dataclass(frozen=True, slots=True)
class _Option:
    """How an option is declared to Nomad, and what a person is told it may be."""

    spec: Callable[[str], Spec]
    """Builds the option's schema from its name."""
    allowed: str
    body: type[msgspec.Struct] | None = None
    """Declares the options of a block."""


def _attr(hcl_type: str, allowed: str, *, required: bool = False) -> _Option:
    return _Option(lambda name: hclspec.attr(name, hcl_type, required=required), allowed)


def _attrs(hcl_type: str, allowed: str) -> _Option:
    return _Option(lambda name: hclspec.block_attrs(name, hcl_type), allowed)


def _block(body: type[msgspec.Struct], allowed: str) -> _Option:
    return _Option(lambda name: hclspec.block(name, _schema(body)), allowed, body)


def _blocks(body: type[msgspec.Struct], allowed: str, *, max_items: int) -> _Option:
    return _Option(
        lambda name: hclspec.block_list(name, _schema(body), max_items=max_items), allowed, body
    )


class NetworkOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`network {}`: one NIC. `networkblocks` says which options go together."""

    mode: Annotated[Literal["user", "vlan"] | None, _attr("string", '"user" or "vlan"')] = None
    """None: "vlan" where a VLAN is named or the node has a default one, else "user"."""
    vlan: Annotated[_Vlan | None, _attr("number", f"a VLAN from {VID_MIN} to {VID_MAX}")] = None
    trunk: Annotated[
        tuple[str, ...], _attr("list(string)", f"VLANs from {VID_MIN} to {VID_MAX} and ranges")
    ] = ()
    """Numbers arrive as text, as HCL converts them."""
    mac: Annotated[_NonEmpty | None, _attr("string", "a unicast MAC address")] = None
    isolated: Annotated[bool, _attr("bool", "true or false")] = False
    queues: Annotated[_Queues, _attr("number", f"a whole number from 1 to {MAX_QUEUES}")] = 1
    mtu: Annotated[_Mtu | None, _attr("number", f"bytes from {MTU_MIN} to {MTU_MAX}")] = None
    rate: Annotated[
        _Rate | None, _attr("number", f"whole Mbit/s, each way, from 1 to {_MAX_RATE_MBIT}")
    ] = None
    advertise: Annotated[
        _NonEmpty | None,
        _attr("string", f'a duration such as "60s", at most {ADVERTISE_MAX_S:.0f} s'),
    ] = None

    @property
    def trunk_vids(self) -> tuple[int, ...]:
        """The VLANs of the trunk, ascending."""
        return tuple(sorted(parse_vlans(self.trunk)))

    @property
    def mac_address(self) -> str | None:
        """`mac`, lower case with colons."""
        return None if self.mac is None else parse_mac(self.mac)

    @property
    def advertise_s(self) -> float | None:
        """How long a start waits for the guest's address; None: the address is not advertised."""
        wait_s = None if self.advertise is None else parse_duration(self.advertise)
        if wait_s is not None and not 0 < wait_s <= ADVERTISE_MAX_S:
            raise ConfigError(f"{self.advertise} is out of range")
        return wait_s


class GuestAgentOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`guest_agent {}`: what may be done through the QEMU guest agent."""

    allow_exec: Annotated[bool, _attr("bool", "true or false")] = False
    """`nomad alloc exec` may run commands in the guest, as its agent's user."""


class TaskOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task's `config` block, checked in itself."""

    image: Annotated[_NonEmpty, _attr("string", "an http or https URL, or a path", required=True)]
    checksum: Annotated[
        _NonEmpty | None,
        _attr("string", '"sha256:…", "sha512:…", or the URL of a SHA256SUMS or SHA512SUMS file'),
    ] = None
    disk_size: Annotated[_NonEmpty | None, _attr("string", 'a size such as "50G"')] = None
    os: Annotated[OsFamily, _attr("string", '"linux" or "windows"')] = OsFamily.LINUX
    firmware: Annotated[FirmwareMode, _attr("string", '"secure-boot", "uefi" or "bios"')] = (
        FirmwareMode.SECURE_BOOT
    )
    cpus: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1024)] | None,
        _attr("number", "a whole number from 1 to 1024"),
    ] = None
    """None: as many as the task's `cores`, else 1."""
    network: Annotated[
        Annotated[tuple[NetworkOptions, ...], msgspec.Meta(max_length=MAX_NICS)],
        _blocks(NetworkOptions, f"at most {MAX_NICS} blocks", max_items=MAX_NICS),
    ] = ()
    """Empty: one NIC in the node's default network."""
    ports: Annotated[
        dict[_NonEmpty, _GuestPort],
        _attrs("number", "port labels of the group, each with a guest port from 1 to 65535"),
    ] = {}
    """Nomad port label to the guest's TCP port."""
    health_port: Annotated[
        _NonEmpty | None, _attr("string", "a port label of the group that `ports` does not use")
    ] = None
    guest_agent: Annotated[GuestAgentOptions, _block(GuestAgentOptions, "one block")] = (
        GuestAgentOptions()
    )
    watchdog: Annotated[bool, _attr("bool", "true or false")] = False
    """The guest has a watchdog, and a VM whose guest no longer feeds it ends."""
    merge: Annotated[bool | None, _attr("bool", "true or false")] = None
    """None: the node's setting."""
    args: Annotated[
        tuple[str, ...], _attr("list(string)", "a list of strings, QEMU's options")
    ] = ()

    @property
    def allow_exec(self) -> bool:
        """Whether `nomad alloc exec` may run commands in the guest."""
        return self.guest_agent.allow_exec

    @property
    def disk_size_bytes(self) -> int | None:
        """Size the disk is grown to; None: the image's own."""
        return None if self.disk_size is None else parse_size(self.disk_size)


class PluginConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `config` of the agent's `plugin` block."""

    config: Annotated[_NonEmpty | None, _attr("string", "the path of a node.toml")] = None
    """None: node.toml in its usual place."""


@functools.cache
def task_schema() -> Spec:
    """Return the schema of a task's `config` block; an agent asks for it once for each task."""
    return _schema(TaskOptions)


def plugin_schema() -> Spec:
    """Return the schema of the `config` in the agent's `plugin` block."""
    return _schema(PluginConfig)


def parse_options(data: bytes) -> TaskOptions:
    """Return the options in `data`, a task's `msgpack_driver_config`.

    Raises:
        JobError: an option is unknown, missing, or contradicts another; the message names it, its
            value and what is allowed.
    """
    options = _parse(data, TaskOptions, JobError)
    _check_text(options, "disk_size_bytes", "disk_size")
    if options.disk_size_bytes == 0:
        raise _wrong_value(TaskOptions, ("disk_size",), options.disk_size, JobError)
    for index, nic in enumerate(options.network):
        for meaning, name in (
            ("trunk_vids", "trunk"),
            ("mac_address", "mac"),
            ("advertise_s", "advertise"),
        ):
            _check_text(nic, meaning, "network", index, name)
    if options.health_port is not None and options.health_port in options.ports:
        raise JobError(
            f'option "health_port" names the port {_show(options.health_port)}, '
            "which `ports` leads into the guest",
            hint="give the group's network block a port of its own for it",
        )
    return options


def _check_text(block: msgspec.Struct, meaning: str, *path: str | int) -> None:
    """Raise unless the text in the option at `path` is what the property `meaning` reads it as."""
    try:
        getattr(block, meaning)
    except (ConfigError, JobError) as exc:
        value = getattr(block, str(path[-1]))
        shown = list(value) if isinstance(value, tuple) else value
        raise _wrong_value(TaskOptions, path, shown, JobError) from exc


def parse_plugin_config(data: bytes) -> PluginConfig:
    """Return the plugin's configuration in `data`, the `msgpack_config` of SetConfig.

    Looks at no file: an agent does not start where SetConfig fails, so what is wrong with node.toml
    is for Fingerprint to tell. Empty `data` means the defaults.

    Raises:
        ConfigError: `data` does not match the schema, which the agent has checked already.
    """
    return _parse(data, PluginConfig, ConfigError) if data else PluginConfig()


_Body = TypeVar("_Body", bound=msgspec.Struct)


def _schema(body: type[msgspec.Struct]) -> Spec:
    """Return the schema of a block whose options are the fields of `body`."""
    return hclspec.object_of({
        name: option.spec(name) for name, option in _options(body).items()
    })  # fmt: skip


def _options(body: type[msgspec.Struct]) -> dict[str, _Option]:
    return {
        name: next(extra for extra in get_args(hint) if isinstance(extra, _Option))
        for name, hint in get_type_hints(body, include_extras=True).items()
    }


def _parse(data: bytes, body: type[_Body], error: type[NodeError]) -> _Body:
    """Return `data` as a `body`; options that are nil take their defaults."""
    try:
        raw = _without_nil(msgspec.msgpack.decode(data))
    # Nesting without end, and text that is not UTF-8, come as Python's own errors.
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError) as exc:
        raise error(f"the options cannot be read: {exc}") from exc
    if not isinstance(raw, dict):
        raise error(f"the options are no map but {_show(raw)}")
    try:
        # Not strict: a number may come as a string, and a whole one as a float.
        return msgspec.convert(raw, body, strict=False)
    except msgspec.ValidationError as exc:
        raise _explain(exc, raw, body, error) from exc


def _without_nil(value: Any) -> Any:
    """Return `value` without the nil entries of its maps, which stand for options not given."""
    if isinstance(value, dict):
        return {key: _without_nil(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nil(item) for item in value]
    return value


_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$| - at `key` in `\$(?P<of_key>[^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*?)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*?)`", re.DOTALL)
_STEP = re.compile(r"\.(?P<key>\w+)|\[(?P<index>\d+)\]")


def _explain(
    exc: msgspec.ValidationError, raw: Any, body: type[msgspec.Struct], error: type[NodeError]
) -> NodeError:
    """Return the error that tells a job's author what msgspec found at which place."""
    text = str(exc)
    at = _PATH.search(text)
    path = _steps((at["path"] or at["of_key"] or "") if at else "")
    if missing := _MISSING.match(text):
        path = (*path, missing["name"])
        return error(f"option {_name(path)} is missing; it must be {_allowed(body, path)}")
    if unknown := _UNKNOWN.match(text):
        return _unknown_option(body, path, unknown["name"], error)
    if not path:
        return error(f"the options are no map of names: {_show(raw)}")
    value = raw
    for step in path:
        value = value[step]
    return _wrong_value(body, path, value, error)


def _steps(path: str) -> tuple[str | int, ...]:
    """Return `.network[0].mode` as its steps, up to the first that msgspec does not name."""
    steps: list[str | int] = []
    position = 0
    while match := _STEP.match(path, position):
        steps.append(match["key"] if match["key"] is not None else int(match["index"]))
        position = match.end()
    return tuple(steps)


def _wrong_value(
    body: type[msgspec.Struct], path: tuple[str | int, ...], value: Any, error: type[NodeError]
) -> NodeError:
    allowed = _allowed(body, path)
    return error(f"option {_name(path)} cannot be {_show(value)}; allowed: {allowed}")


def _unknown_option(
    body: type[msgspec.Struct], path: tuple[str | int, ...], name: str, error: type[NodeError]
) -> NodeError:
    known = sorted(_options(_body_at(body, path)))
    near = nearest(name, known)
    hint = f'did you mean "{near}"?' if near else f"there are: {', '.join(known)}"
    return error(f"there is no option {_name((*path, name))}", hint=hint)


def _allowed(body: type[msgspec.Struct], path: tuple[str | int, ...]) -> str:
    """Return what the option at `path` may be."""
    names = [step for step in path if isinstance(step, str)]
    return _options(_body_at(body, tuple(names[:-1])))[names[-1]].allowed


def _body_at(body: type[msgspec.Struct], path: tuple[str | int, ...]) -> type[msgspec.Struct]:
    """Return the Struct of the block at `path`."""
    for step in path:
        if isinstance(step, str):
            block = _options(body)[step].body
            assert block is not None, f"{step} is no block"
            body = block
    return body


def _name(path: tuple[str | int, ...]) -> str:
    """Return an option's name as a job's author writes it: `"network.mode"`."""
    return _show(".".join(step for step in path if isinstance(step, str)))


def _show(value: Any) -> str:
    """Return `value` on one line, strings in double quotes, cut to a readable length."""
    text = (
        _json_text(value) if isinstance(value, str | bool | Mapping | list | None) else str(value)
    )
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}…"


def _json_text(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        return repr(value)
