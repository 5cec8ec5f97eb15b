"""Finding out what `agentchecks` judges: the agent's own API, its files, its unit.

The `nomad` program asks the agent: it knows tokens, TLS and sockets. Changes nothing; every
question has a time limit.
"""

import asyncio
import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from qemu_node.cli.doctor.agentchecks import AgentFacts, Program
from qemu_node.errors import ConfigError, MissingPartError, NodeError
from qemu_node.host.process.command import SAFE_ENV, run
from qemu_node.nodeos.agent.client import DRIVER_NAME, DriverInfo
from qemu_node.nodeos.agent.config import (
    DEFAULT_GC_MAX_ALLOCS,
    AgentConfig,
    agent_config,
    read_settings,
)
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.release import read_release
from qemu_node.nomad.plugin.handshake import NOT_BY_HAND
from qemu_node.text import DECODE_ERRORS, without_login
from qemu_node.units import GIB

_NOMAD_VERSION = re.compile(r"^Nomad v(\d+)\.(\d+)\.(\d+)", re.MULTILINE)
_TIMEOUT_S = 20.0
_DEFAULT_ADDRESS = "http://127.0.0.1:4646"
_DEBIAN_CONFIG_DIR = Path("/etc/nomad.d")
_WORDS_MAX_CHARS = 200
_T = TypeVar("_T")


class _Plugin(msgspec.Struct, rename="pascal"):
    name: str


class _Client(msgspec.Struct, rename="pascal"):
    gc_max_allocs: int = msgspec.field(name="GCMaxAllocs", default=DEFAULT_GC_MAX_ALLOCS)


class _Config(msgspec.Struct, rename="pascal"):
    plugin_dir: str = ""
    plugins: list[_Plugin] | None = None
    client: _Client | None = None


class _Self(msgspec.Struct):
    """GET /v1/agent/self (Nomad's command/agent/agent_endpoint.go)."""

    config: _Config
    stats: dict[str, dict[str, str]] = {}


class _Node(msgspec.Struct, rename="pascal"):
    """GET /v1/node/:id."""

    attributes: dict[str, str] = {}
    drivers: dict[str, DriverInfo] | None = None


async def read_agent(name: str, environ: Mapping[str, str] = os.environ) -> AgentFacts:
    """Return what Nomad is like here; `name` is its program, in the PATH or a path."""
    program = await find_nomad(name)
    if not isinstance(program, Program):
        return AgentFacts(program=program)
    address = environ.get("NOMAD_ADDR") or _DEFAULT_ADDRESS
    problem, host_name, driver = None, os.uname().nodename, None
    try:
        agent = await _ask(program.path, "/v1/agent/self", _Self, environ)
        config: AgentConfig | None = AgentConfig(
            plugin_dir=agent.config.plugin_dir,
            plugins=tuple(plugin.name for plugin in agent.config.plugins or ()),
            gc_max_allocs=(agent.config.client or _Client()).gc_max_allocs,
        )
        if node_id := agent.stats.get("client", {}).get("node_id"):
            node = await _ask(program.path, f"/v1/node/{node_id}", _Node, environ)
            host_name = node.attributes.get("unique.hostname", host_name)
            driver = (node.drivers or {}).get(DRIVER_NAME) or DriverInfo()
    except NodeError as exc:
        problem = str(exc)
        config = await asyncio.to_thread(read_config_files, config_dir(NodePaths()))
    is_here = host_name == os.uname().nodename
    plugin_problem = None
    if is_here and config is not None and config.plugins_dir and DRIVER_NAME in config.plugins:
        plugin_problem = await find_plugin_problem(Path(config.plugins_dir) / DRIVER_NAME)
    return AgentFacts(
        program=program,
        address=without_login(address),
        problem=problem,
        host_name="" if is_here else host_name,
        config=config,
        driver=driver,
        plugin_problem=plugin_problem,
        kill_mode=await read_kill_mode(),
        room=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // GIB,
    )


def config_dir(paths: NodePaths) -> Path:
    """Return the directory of the agent's configuration."""
    return paths.config if read_release(paths).is_node_os else _DEBIAN_CONFIG_DIR


async def find_nomad(name: str) -> Program | NodeError | None:
    """Return the program and its version, what is wrong with it, or None."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        done = await run([path, "version"], timeout_s=_TIMEOUT_S)
    except NodeError as exc:
        return exc
    match = _NOMAD_VERSION.search(done.stdout.decode(errors="replace"))
    if match is None:
        return MissingPartError(f"{path} does not tell its version")
    return Program(path=path, version=(int(match[1]), int(match[2]), int(match[3])))


async def _ask(nomad: str, path: str, kind: type[_T], environ: Mapping[str, str]) -> _T:
    """Return what the agent's API answers."""
    env = SAFE_ENV | {key: text for key, text in environ.items() if key.startswith("NOMAD_")}
    # Without the method it sends a POST, since its stdin is no terminal.
    argv = [nomad, "operator", "api", "-X", "GET", path]
    done = await run(argv, timeout_s=_TIMEOUT_S, env=env, check=False)
    try:
        return msgspec.json.decode(done.stdout, type=kind)
    except DECODE_ERRORS:
        # An API that refuses says so in one line of text.
        words = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
        address = environ.get("NOMAD_ADDR", "")
        words = words.replace(address, without_login(address))
        reason = words.removeprefix("Error performing request: ")[:_WORDS_MAX_CHARS]
        raise NodeError(reason or "an answer that is not JSON") from None


def read_config_files(directory: Path) -> AgentConfig | None:
    """Return the configuration of an agent that does not run; None if there is none to read."""
    try:
        settings = read_settings(directory)
    except ConfigError:
        return None
    return agent_config(settings) if settings else None


async def find_plugin_problem(path: Path) -> str | None:
    """Return why the agent cannot start the plugin file, None if it can."""
    real, problem = _judge_file(path)
    if problem is not None:
        return problem
    try:
        done = await run([str(real)], timeout_s=_TIMEOUT_S, check=False)
    except NodeError as exc:
        return f"does not start: {exc}"
    words = " ".join((done.stderr + done.stdout).decode(errors="replace").split())
    # The driver itself, which no agent has started.
    if NOT_BY_HAND in words:
        return None
    return f"does not start: {words[-_WORDS_MAX_CHARS:] or f'exit status {done.returncode}'}"


def _judge_file(path: Path) -> tuple[Path, str | None]:
    """Return the file that is meant, without links, and why it is not started."""
    try:
        path = Path(os.path.realpath(path))
        return path, _file_problem(path) or _start_problem(path)
    except OSError as exc:
        return path, f"cannot be looked at: {exc.strerror}"


def _file_problem(path: Path) -> str | None:
    """Return why Nomad would ignore a file in plugin_dir, None if it would not."""
    if not path.is_file():
        return "does not exist"
    # Nomad asks whether anybody may execute it (its helper/pluginutils/loader).
    return None if path.stat().st_mode & 0o111 else "is not executable"


def _start_problem(path: Path) -> str | None:
    """Return why we do not start a file though Nomad may: others than root and we can replace it.

    The agent names the file, and anybody may listen at its address while no agent does.
    """
    for part in (path, *path.parents):
        info = part.stat()
        if info.st_uid not in (0, os.geteuid()):
            return f"is not started to try it: {part} belongs to user {info.st_uid}"
        writers = stat.S_IWOTH | (0 if info.st_gid in (0, os.getegid()) else stat.S_IWGRP)
        # In a sticky directory nobody replaces what is another's.
        if info.st_mode & writers and not info.st_mode & stat.S_ISVTX:
            return f"is not started to try it: others may write to {part}"
    return None


async def read_kill_mode() -> str | None:
    """Return `KillMode` of nomad.service; None if there is no such unit, or no systemd."""
    names = ("LoadState", "KillMode")
    argv = ["systemctl", "show", "nomad.service", *(f"--property={name}" for name in names)]
    try:
        done = await run(argv, timeout_s=_TIMEOUT_S)
    except NodeError:
        return None
    shown = dict(line.partition("=")[::2] for line in done.stdout.decode().splitlines())
    return shown.get("KillMode") if shown.get("LoadState") == "loaded" else None
