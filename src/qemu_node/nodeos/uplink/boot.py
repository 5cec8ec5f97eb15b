"""The node's network before networkd starts: find NICs and settings, decide, write the files.

It works without /data, and without udev but for names that the settings use; whatever is wrong,
networkd gets files by which the node has a network. Owns the order of these steps and the record on
disk. Does not own the decisions (`choice`, `files`).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from qemu_node.config.uplink import UplinkConfig
from qemu_node.config.uplinkfile import format_uplink
from qemu_node.errors import NodeError
from qemu_node.host.files.atomic import host_error, write_atomic
from qemu_node.host.files.directories import open_directory
from qemu_node.host.process.command import run_blocking
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.uplink.choice import (
    Choice,
    Record,
    choose,
    find_members,
    next_record,
    seconds_to_wait,
)
from qemu_node.nodeos.uplink.files import UPLINK_ENV, environment, network_files, stale
from qemu_node.nodeos.uplink.nics import Machine, fastest_mode, read_machine
from qemu_node.nodeos.uplink.settings import find_settings, state_dir

_POLL_S = 0.05
_WAKE_S = 1.0
_NET = "sys/class/net"
_TOOL_TIMEOUT_S = 10.0
_RECORD = "uplink-state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What this boot's network is."""

    choice: Choice
    origin: str
    """The file with the settings; empty: there is none."""
    problems: tuple[str, ...]
    """What is wrong, in words. The node has a network all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What the last `prepare` of this boot left."""

    settings: str
    """The settings as `format_uplink` writes them; empty: it has not run."""
    problems: tuple[str, ...] = ()


def prepare(paths: NodePaths) -> Prepared:
    """Write the files for networkd; return what they say, and what is wrong.

    Raises:
        HostError: the files below /run cannot be written.
    """
    directory = state_dir(paths, paths.mountinfo.read_text(errors="replace"))
    found = find_settings(paths, directory)
    record = read_record(directory / _RECORD)
    wait_for_nics(paths.root, found.settings, record)
    machine = wake(paths.root, read_nics(paths.root, found.settings), found.settings)
    choice = choose(found.settings, machine, record)
    problems = [*found.problems, *choice.problems]
    write_files(
        paths.root / "run/systemd/network",
        network_files(found.settings, choice),
    )
    try:
        keep_record(
            directory / _RECORD, next_record(found.settings, choice, machine, record), record
        )
    except NodeError as exc:
        problems.append(f"{exc.explain()}: the node's address may change at the next boot")
    _write(state_of_boot(paths) / UPLINK_ENV, environment(found.settings))
    _write(state_of_boot(paths) / "applied.toml", format_uplink(found.settings))
    _write(state_of_boot(paths) / "problems", "".join(f"{problem}\n" for problem in problems))
    return Prepared(choice=choice, origin=found.origin, problems=tuple(problems))


def state_of_boot(paths: NodePaths) -> Path:
    """Return the directory of what `prepare` leaves for this boot."""
    return paths.root / "run/qemu-node-uplink"


def read_applied(paths: NodePaths) -> Applied:
    """Return what `prepare` left in this boot."""
    try:
        return Applied(
            settings=(state_of_boot(paths) / "applied.toml").read_text(),
            problems=tuple((state_of_boot(paths) / "problems").read_text().splitlines()),
        )
    except OSError:
        return Applied(settings="")


def wait_for_nics(root: Path, settings: UplinkConfig, record: Record) -> None:
    """Return once those NICs are there on which the decisions depend."""
    began = time.monotonic()
    while True:
        waited_s = time.monotonic() - began
        if waited_s >= seconds_to_wait(settings, read_machine(root, ""), record):
            return
        time.sleep(_POLL_S)


def read_nics(root: Path, settings: UplinkConfig) -> Machine:
    """Return the NICs that are there, with the speeds of those that may be in the bond."""
    machine = read_machine(root, _say("ip", "-json", "link", "show"))
    return measure(machine, settings, lambda name: _say("ethtool", name))


def measure(machine: Machine, settings: UplinkConfig, ask: Callable[[str], str]) -> Machine:
    """Return `machine` with the speeds of the NICs that may be in the bond."""
    members = {nic.name for nic in find_members(settings, machine.nics)}
    # If the settings fit no NIC, all are used.
    members = members or {nic.name for nic in machine.nics}
    nics = (
        replace(nic, speed_mbit=fastest_mode(ask(nic.name))) if nic.name in members else nic
        for nic in machine.nics
    )
    return replace(machine, nics=tuple(nics))


def wake(root: Path, machine: Machine, settings: UplinkConfig) -> Machine:
    """Return `machine` with the speeds of those NICs, too, that know them only while they are up.

    Virtual NICs are so, virtio's for one. They are up for a second at most, and only where it
    decides who leads.
    """
    members = find_members(settings, machine.nics)
    asleep = [
        nic.name
        for nic in members
        # A kernel before 6.2 does not rename a NIC that is up.
        if not nic.speed_mbit and nic.has_final_name and not _is_up(root / _NET / nic.name)
    ]
    if len(members) < 2 or not asleep or settings.mode == "lacp" or settings.primary:
        return machine
    for name in asleep:
        _say("ip", "link", "set", "dev", name, "up")
    deadline = time.monotonic() + _WAKE_S
    while True:
        speeds = {name: fastest_mode(_say("ethtool", name)) for name in asleep}
        if all(speeds.values()) or time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    for name in asleep:
        _say("ip", "link", "set", "dev", name, "down")
    nics = (replace(nic, speed_mbit=speeds.get(nic.name, nic.speed_mbit)) for nic in machine.nics)
    return replace(machine, nics=tuple(nics))


def _is_up(link: Path) -> bool:
    try:
        return bool(int((link / "flags").read_text(), 16) & 1)  # IFF_UP
    except (OSError, ValueError):
        return True


def _say(*argv: str) -> str:
    """Return what a tool prints; nothing if it is not installed or fails."""
    try:
        done = run_blocking(argv, timeout_s=_TOOL_TIMEOUT_S)
    except NodeError:
        return ""
    return done.stdout.decode(errors="replace")


def read_record(path: Path) -> Record:
    """Return what the last boot left; an empty record if it left nothing that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return Record()


def keep_record(path: Path, record: Record, earlier: Record) -> None:
    """Write the record unless it is there.

    Raises:
        HostError: the host refused; the earlier record is as it was.
    """
    if record == earlier and path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise host_error("make", path.parent, exc) from exc
    data = msgspec.json.format(msgspec.json.encode(record), indent=1)
    write_atomic(path, data + b"\n", mode=0o600, is_durable=True)


def write_files(directory: Path, files: Mapping[str, str]) -> None:
    """Make the files exist, and those of an earlier run that are not among them not exist.

    Raises:
        HostError: the host refused.
    """
    found: dict[str, str] = {}
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            found[str(path.relative_to(directory))] = path.read_text(errors="replace")
    for name, text in files.items():
        if found.get(name) != text:
            _write(directory / name, text)
    for name in stale(files, found):
        (directory / name).unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    # networkd runs as a user of its own.
    open_directory(path.parent, 0o755)
    write_atomic(path, text.encode())
