"""Running the Elemental CLI: its command line, its environment, its words as they come.

Owns the process and what it is given of node.toml: the registry's credentials, proxy and
certificates. Does not own what is installed (`source`) or whether (`checks`).
"""

import asyncio
import base64
import contextlib
import os
import re
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

import msgspec

from qemu_node.config.images import ImagesConfig
from qemu_node.errors import HostError
from qemu_node.host.concurrency.cancellation import finish
from qemu_node.host.files.atomic import host_error, write_atomic
from qemu_node.host.files.directories import make_directory, open_directory
from qemu_node.host.process.command import SAFE_ENV, spawn
from qemu_node.host.process.exitstatus import describe_exit
from qemu_node.host.process.pidfd import Hold
from qemu_node.images.source.credentials import Credential
from qemu_node.nodeos.paths import NodePaths
from qemu_node.text import printable

_POLL_S = 0.5
_STOP_S = 20.0
"""How long Elemental gets to undo what it has begun."""

_TAIL_BYTES = 4096
# logrus with forced colours, as Elemental has it, and without, as before it has read its flags:
#   ESC[36mINFO ESC[0m[2026-11-30T10:00:00Z] Starting snapshotter transaction
#   time="…" level=info msg="Starting snapshotter transaction"
_COLOURED = re.compile(r"\x1b\[\d+m(?P<level>[A-Z]{4})\x1b\[0m\[[^\]]*\] (?P<words>.*)")
_PLAIN = re.compile(r'level=(?P<level>\w+) msg="(?P<words>(?:[^"\\]|\\.)*)"')
_LEVELS = {"DEBU": "debug", "INFO": "info", "WARN": "warning", "ERRO": "error", "FATA": "error"}
# What our own commands in its hooks say (`cli.errortext`).
_HOOK_ERROR = "error: "
# How hashicorp/go-multierror begins; what it lists was said before, by whoever met it.
_LIST_FOLLOWS = "occurred:"

Tell = Callable[[str], None]


class ElementalError(HostError):
    """Elemental failed. Whether it has switched to the new image is for the snapshots to say."""


def upgrade_argv(paths: NodePaths, system: str, *, recovery: bool) -> list[str]:
    """Return the command line: pure. It never restarts the node: that is done by systemd.

    Nor does it replace the boot loader: a hook of ours does (`bootloader`).
    """
    argv = [str(paths.elemental), "upgrade", "--strict", "--system", system]
    if recovery:
        argv.append("--recovery")
    return argv


def environment(images: ImagesConfig, docker_config: Path | None) -> dict[str, str]:
    """Return what Elemental needs to reach a registry as we do: pure."""
    env = dict(SAFE_ENV)
    if images.proxy:
        env |= {"HTTPS_PROXY": images.proxy, "HTTP_PROXY": images.proxy}
        # Go's rule for a domain and all below it is a leading dot (x/net/http/httpproxy).
        hosts = [host.removeprefix("*") for host in images.no_proxy]
        env["NO_PROXY"] = ",".join(hosts)
    if images.ca_file:
        # Beside those in /etc/ssl/certs, which Go reads all the same (crypto/x509, root_unix.go).
        env["SSL_CERT_FILE"] = images.ca_file
    if docker_config is not None:
        env["DOCKER_CONFIG"] = str(docker_config)
    return env


def docker_auths(host: str, credential: Credential) -> dict[str, object] | None:
    """Return the content of Docker's config.json for a registry; None without a secret. Blocks."""
    if credential.bearer is not None:
        return {"auths": {host: {"registrytoken": credential.bearer.read()}}}
    if credential.basic is not None:
        pair = f"{credential.basic.username}:{credential.basic.password.read()}".encode()
        return {"auths": {host: {"auth": base64.b64encode(pair).decode()}}}
    return None


@contextlib.contextmanager
def docker_config(
    paths: NodePaths, host: str, credential: Credential | None
) -> Generator[Path | None]:
    """Have the credential in a directory of /run inside the block."""
    auths = None if credential is None else docker_auths(host, credential)
    if auths is None:
        yield None
        return
    directory = paths.run / "registry"
    make_directory(directory, 0o700)
    file = directory / "config.json"
    write_atomic(file, msgspec.json.encode(auths), mode=0o600)
    try:
        yield directory
    finally:
        file.unlink(missing_ok=True)


async def run_elemental(
    argv: Sequence[str], *, env: Mapping[str, str], log_path: Path, tell: Tell
) -> None:
    """Run Elemental to its end; its words go to `log_path`, what it does to `tell`.

    Cancelling stops it, and returns when it is gone.

    Raises:
        MissingPartError: there is no such program.
        ElementalError: it failed.
    """
    open_directory(log_path.parent, 0o755)
    try:
        fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    except OSError as exc:
        raise host_error("write", log_path, exc) from exc
    try:
        child = spawn(argv, stderr_fd=fd, env=env)
    finally:
        os.close(fd)
    follower = Follower(log_path, tell)
    with Hold(child.process) as hold:
        try:
            while not await _is_gone(hold):
                follower.follow()
        except asyncio.CancelledError:
            await finish(_stop(hold))
            raise
        finally:
            # Before it is reaped: the tools that a killed Elemental leaves still write.
            child.kill_group()
            status = child.exit_status()
    follower.follow()
    if status != 0:
        ended = "has ended" if status is None else describe_exit(status)
        why = f": {follower.reason}" if follower.reason else ""
        raise ElementalError(
            f"elemental upgrade {ended}{why}", hint=f"{log_path} has all that it said"
        )


async def _is_gone(hold: Hold) -> bool:
    """Wait a moment for the process; tell whether it has ended."""
    try:
        await asyncio.wait_for(hold.wait_gone(), _POLL_S)
    except TimeoutError:
        return False
    return True


async def _stop(hold: Hold) -> None:
    hold.send(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(hold.wait_gone(), _STOP_S)
    hold.send(signal.SIGKILL)
    await hold.wait_gone()


class Follower:
    """Reads a log that grows."""

    def __init__(self, path: Path, tell: Tell) -> None:
        self._path = path
        self._tell = tell
        self._at = 0
        self._rest = b""
        self._last_error = ""
        self._hook_error = ""

    @property
    def reason(self) -> str:
        """Why it failed: in our own words, if a hook of ours has said why; empty if unknown."""
        return self._hook_error or self._last_error

    def follow(self) -> None:
        """Tell the lines that came since."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = self._rest + file.read()
                self._at = file.tell()
        except OSError:
            return
        *lines, self._rest = data.split(b"\n")
        self._rest = self._rest[-_TAIL_BYTES:]
        for line in lines:
            level, words = parse_line(line.decode(errors="replace"))
            if words.startswith(_HOOK_ERROR):
                self._hook_error = words.removeprefix(_HOOK_ERROR)
            elif level == "error" and not words.endswith(_LIST_FOLLOWS):
                self._last_error = words
            elif level == "other" and words.startswith("* "):
                self._last_error = self._last_error or words.removeprefix("* ")
            if words and level in ("info", "warning", "error"):
                self._tell(words)


def parse_line(line: str) -> tuple[str, str]:
    """Return the level and the words of a line of Elemental's log: pure.

    The level of a line that is not its own is `other`: what a command in a hook printed.
    """
    if match := _COLOURED.search(line):
        level = _LEVELS.get(match["level"], "info")
        return level, printable(match["words"].strip())
    if match := _PLAIN.search(line):
        words = re.sub(r"\\(.)", lambda m: " " if m[1] in "nt" else m[1], match["words"])
        return match["level"], printable(words)
    return "other", printable(line.strip())
