"""The relays beside the daemon: ours without TLS, websockify, and the Go program of the original.

Owns their processes. Of the others, each is given the path of a VNC server's socket and has a URL
for viewers.
"""

import os
import shutil
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from bench.console import served
from bench.console.relay.viewer import Console, Viewer
from bench.rig.node import BenchNode, CannotRunError
from qemu_node.host.process import command
from qemu_node.host.process.command import Child

ORIGINAL_DIR = Path("vm-console")
_SOCKETS = Path("/tmp/vnc")
"""Where the original looks for sockets; it is mounted over."""
_ORIGINAL_PORT = 5800
_BUILD_S = 300.0


@asynccontextmanager
async def plain_daemon(node: BenchNode) -> AsyncGenerator[tuple[Child, Console]]:
    """Give the console as `qemu-node run` serves it, without TLS, and somebody logged in."""
    settings = served.settings_of(node, "plain", served.free_port(), "")
    log = node.root / "plain.log"
    argv = [sys.executable, "-m", "bench.console.relay.plain", str(settings)]
    async with served.program(argv, log) as child:
        url, _, link = (await served.line_of(child, log)).partition("/#link=")
        yield child, Console(url).log_in({"link": link})


def find_websockify() -> str:
    """Return the program.

    Raises:
        CannotRunError: it is not installed.
    """
    found = shutil.which("websockify", path=f"{Path(sys.executable).parent}:{os.defpath}")
    if found is None:
        raise CannotRunError("websockify is not installed: make bench installs it")
    return found


@asynccontextmanager
async def websockify(
    vnc: Path, root: Path, *, certificate: Path | None
) -> AsyncGenerator[tuple[Child, str]]:
    """Give websockify before the VNC server at `vnc`; with `certificate` it has TLS."""
    port = served.free_port()
    log = root / "websockify.log"
    argv = [find_websockify(), f"--unix-target={vnc}", f"127.0.0.1:{port}"]
    if certificate is not None:
        argv[1:1] = [f"--cert={certificate}", "--ssl-only"]
    async with served.program(argv, log) as child:
        await served.listens(child, log, port)
        yield child, f"{'https' if certificate else 'http'}://127.0.0.1:{port}"


async def build_original(checkout: Path, root: Path) -> Path:
    """Return the original's program, built in `root`.

    Raises:
        CannotRunError: there is no Go, or no such program in the checkout.
        ProcessError: the build failed.
    """
    go = shutil.which("go", path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/go/bin")
    source = checkout / ORIGINAL_DIR
    if go is None:
        raise CannotRunError("the original's program needs Go to be built")
    if not (source / "main.go").is_file():
        raise CannotRunError(f"{checkout} holds no {ORIGINAL_DIR}/main.go")
    shutil.copytree(source, root / "original")
    binary = root / "original" / "vm-console"
    argv = [go, "-C", str(binary.parent), "build", "-o", str(binary), "."]
    _ = await command.run(argv, env=os.environ, timeout_s=_BUILD_S)
    return binary


@asynccontextmanager
async def original(binary: Path, sockets: Path, root: Path) -> AsyncGenerator[tuple[Child, str]]:
    """Give the original's program for the sockets in `sockets`, in this namespace of mounts.

    Its viewers ask for `/vnc/` and the socket's name without its suffix.
    """
    log = root / "original.log"
    with _sockets_at(sockets):
        async with served.program([str(binary)], log) as child:
            await served.listens(child, log, _ORIGINAL_PORT)
            yield child, f"http://127.0.0.1:{_ORIGINAL_PORT}"


@contextmanager
def _sockets_at(directory: Path) -> Generator[None]:
    """Have `directory` where the original looks for sockets."""
    is_new = not _SOCKETS.exists()
    _SOCKETS.mkdir(exist_ok=True)
    try:
        _ = command.run_blocking(["mount", "--bind", str(directory), str(_SOCKETS)])
        yield
        _ = command.run_blocking(["umount", str(_SOCKETS)])
    finally:
        if is_new:
            _SOCKETS.rmdir()


def viewer_of(url: str, path: str) -> Viewer:
    """Return a viewer of a relay that asks for no ticket."""
    return Viewer.connect(url, path, {"Origin": url})
