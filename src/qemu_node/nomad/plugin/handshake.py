"""go-plugin's handshake: the agent's environment variables, the plugin's line, the socket.

Owns the plugin's socket directory, its stdout, and the format of the handshake line for both
sides. Does not own what is served on the socket (`server`) nor how a plugin is started
(`agent.pluginclient`).

Facts: go-plugin 1.8.0 client.go and server.go; HandshakeConfig of Nomad's plugins/base.
"""

import contextlib
import grp
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from qemu_node.errors import ConfigError, HostError, NodeError
from qemu_node.host.files.atomic import host_error
from qemu_node.host.files.directories import make_directory, open_directory
from qemu_node.host.files.lock import FileLock
from qemu_node.host.files.tree import remove_tree
from qemu_node.host.sockets import SUN_PATH_MAX_BYTES

log = logging.getLogger(__name__)

COOKIE_KEY = "NOMAD_PLUGIN_MAGIC_COOKIE"
COOKIE_VALUE = "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255"
"""Shows that Nomad started us, not a person. It is public and protects nothing."""
NOT_BY_HAND = "this is a plugin of Nomad and is not run by hand"
"""What the plugin says without the cookie."""

CORE_VERSION = 1
"""go-plugin's own protocol."""
PROTOCOL_VERSION = 2
"""Nomad's plugin protocol."""

VERSIONS_KEY = "PLUGIN_PROTOCOL_VERSIONS"
_CERTIFICATE_KEY = "PLUGIN_CLIENT_CERT"
_SOCKET_DIR_KEY = "PLUGIN_UNIX_SOCKET_DIR"
_SOCKET_GROUP_KEY = "PLUGIN_UNIX_SOCKET_GROUP"


class HandshakeLineError(NodeError):
    """What a plugin printed is not a handshake of this protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """The content of a handshake line: where the plugin listens."""

    socket: Path

    def line(self) -> str:
        """Return the line for stdout, without its newline. Its certificate is empty."""
        return f"{CORE_VERSION}|{PROTOCOL_VERSION}|unix|{self.socket}|grpc|"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Return the content of a plugin's line.

        Raises:
            HandshakeLineError: it is not a handshake line, or is one of another protocol.
        """
        fields = line.strip().split("|")
        if len(fields) < 4:
            raise HandshakeLineError(f"not a handshake line: {line.strip()[:200]!r}")
        core, version, network, address = fields[:4]
        protocol = fields[4] if len(fields) > 4 else "netrpc"
        spoken = (core, version, network, protocol)
        expected = (str(CORE_VERSION), str(PROTOCOL_VERSION), "unix", "grpc")
        if spoken != expected:
            raise HandshakeLineError(
                f"the plugin speaks {'|'.join(spoken)}, not {'|'.join(expected)}"
            )
        if len(fields) > 5 and fields[5]:
            raise HandshakeLineError("the plugin wants TLS, which Nomad does not use")
        return cls(socket=Path(address))


def client_environment() -> dict[str, str]:
    """Return the variables that Nomad gives a plugin."""
    return {
        COOKIE_KEY: COOKIE_VALUE,
        VERSIONS_KEY: str(PROTOCOL_VERSION),
        "PLUGIN_MIN_PORT": "10000",
        "PLUGIN_MAX_PORT": "25000",
    }


def check_environment(environ: Mapping[str, str]) -> None:
    """Return if a Nomad agent that speaks this protocol has started this process.

    Raises:
        ConfigError: none has; the message is for the person who started it.
    """
    if environ.get(COOKIE_KEY) != COOKIE_VALUE:
        raise ConfigError(
            NOT_BY_HAND,
            hint="put it into the agent's plugin_dir; to start VMs without Nomad: qemu-node run",
        )
    offered = environ.get(VERSIONS_KEY)
    # Without it: the agent has an old go-plugin, which accepts the plugin's version.
    if offered is not None and str(PROTOCOL_VERSION) not in offered.split(","):
        raise ConfigError(
            f"the agent speaks plugin protocol {offered or 'of no version'}, "
            f"this plugin {PROTOCOL_VERSION}",
            hint="use Nomad 1.11.3 or later",
        )
    if environ.get(_CERTIFICATE_KEY):
        # With AutoMTLS an agent cannot reattach to a plugin, so Nomad never uses it.
        raise ConfigError(f"{_CERTIFICATE_KEY} is set: TLS on the plugin's socket is unsupported")


class HandshakeOutput:
    """The process's stdout, reserved for the handshake line.

    From its construction on, what is written to descriptor 1 goes to stderr: one other line before
    the handshake keeps the agent from starting.
    """

    def __init__(self) -> None:
        self._fd = os.dup(1)
        os.dup2(2, 1)

    def announce(self, handshake: Handshake) -> None:
        """Print the line. The socket must be listening. Call it once."""
        try:
            os.write(self._fd, handshake.line().encode("utf-8", "surrogateescape") + b"\n")
        finally:
            os.close(self._fd)


@contextlib.contextmanager
def plugin_socket(run_dir: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the path for this process's socket; its directory exists inside the block.

    It is `<run_dir>/plugin/<pid>/plugin.sock`, in a directory that only our user may enter, or in
    the directory that PLUGIN_UNIX_SOCKET_DIR names. Directories of dead plugins are removed first.

    Raises:
        ConfigError: the path does not fit into a socket address or into the handshake line.
        HostError: the directory cannot be made.
    """
    named = environ.get(_SOCKET_DIR_KEY)
    if named:
        socket = Path(named) / f"qemu-node-{os.getpid()}.sock"
        _check_socket_path(socket)
        try:
            socket.unlink(missing_ok=True)
        except OSError as exc:
            raise host_error("remove", socket, exc) from exc
        try:
            yield socket
        finally:
            socket.unlink(missing_ok=True)
        return
    root = plugins_dir(run_dir)
    own = root / str(os.getpid())
    socket = own / "plugin.sock"
    _check_socket_path(socket)
    open_directory(run_dir, 0o755)
    make_directory(root, 0o700)
    sweep(root)
    # The lock file is beside the directory. It is taken before the directory exists, so that
    # another plugin's sweep never takes a new directory for an old one.
    with FileLock(lock_path(own)):
        remove_tree(own)
        make_directory(own, 0o700)
        try:
            yield socket
        finally:
            _remove(own)


@contextlib.contextmanager
def temporary_socket() -> Iterator[Path]:
    """Yield a path for this process's socket in a temporary directory of our user.

    Raises:
        ConfigError: as `plugin_socket`.
        HostError: no temporary directory can be made.
    """
    try:
        directory = tempfile.TemporaryDirectory(prefix="qemu-node-", ignore_cleanup_errors=True)
    except OSError as exc:
        raise HostError(f"cannot make a temporary directory: {exc.strerror or exc}") from exc
    with directory as name:
        socket = Path(name) / "plugin.sock"
        _check_socket_path(socket)
        yield socket


def grant_group(socket: Path, environ: Mapping[str, str]) -> None:
    """If PLUGIN_UNIX_SOCKET_GROUP is set, let that group use `socket`.

    Raises:
        ConfigError: no such group.
        HostError: we may not give the socket to the group.
    """
    name = environ.get(_SOCKET_GROUP_KEY)
    if not name:
        return
    try:
        gid = int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"{_SOCKET_GROUP_KEY}: there is no group {name!r}") from None
    try:
        os.chown(socket, -1, gid)
        socket.chmod(0o660)
    except OSError as exc:
        raise host_error("give to the plugin group", socket, exc) from exc


def sweep(root: Path) -> None:
    """Remove the socket directories below `root` whose plugin has died; log errors.

    Raises HostError if `root` cannot be read.

    A plugin that was killed leaves its directory behind. Its pid may be in use again, but the
    kernel has released its lock.
    """
    try:
        names = {entry.name.removesuffix(".lock") for entry in root.iterdir()}
    except OSError as exc:
        raise host_error("read", root, exc) from exc
    for name in sorted(filter(str.isdecimal, names)):
        directory = root / name
        lock = FileLock(lock_path(directory))
        try:
            if lock.try_acquire():
                _remove(directory)
        except NodeError as exc:
            log.warning("directory of a dead plugin not removed", extra={"reason": exc.explain()})
        finally:
            lock.release()


def _remove(directory: Path) -> None:
    """Remove a plugin's directory and its lock, which the caller holds."""
    remove_tree(directory)
    lock_path(directory).unlink(missing_ok=True)


def plugins_dir(run_dir: Path) -> Path:
    """Return where each plugin that lives has a directory, named after its pid."""
    return run_dir / "plugin"


def lock_path(directory: Path) -> Path:
    """Return the lock that the plugin of `directory` holds as long as it lives."""
    return directory.with_name(f"{directory.name}.lock")


def _check_socket_path(socket: Path) -> None:
    raw = os.fsencode(socket)
    if len(raw) > SUN_PATH_MAX_BYTES:
        raise ConfigError(
            f"the plugin's socket path is longer than {SUN_PATH_MAX_BYTES} bytes: {socket}",
            hint="shorten paths.run in node.toml",
        )
    # The line has fields between "|", and go-plugin trims it.
    if b"|" in raw or b"\n" in raw:
        raise ConfigError(f"the plugin's socket path cannot hold '|' or a newline: {socket!s}")
