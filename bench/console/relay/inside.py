"""`python -m bench.console.relay.inside [CHECKOUT]`: what relays cost; prints a `RelayRun` as JSON.

All relays are measured in turns, before one VNC server, which sends as fast as it is read. The
console is the daemon's process; without TLS, too, as `qemu-node run` serves it, because the others
have none by default. CHECKOUT is that of the original, which wants its own port and /tmp/vnc: then
to be started with new network and mount namespaces, for nothing leaves this one.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.console import served
from bench.console.facts import (
    ORIGINAL,
    OURS,
    OURS_TLS,
    WEBSOCKIFY,
    WEBSOCKIFY_TLS,
    Rates,
    RelayRun,
)
from bench.console.relay import others
from bench.console.relay.viewer import Console, Viewer
from bench.rig import procs
from bench.rig.node import BenchNode, CannotRunError, bench_node
from qemu_node.config.node import Paths
from qemu_node.errors import NodeError
from qemu_node.host.process import command
from qemu_node.host.process.command import Child
from qemu_node.vm.record.directory import VMDirectory

_ROUNDS = 5
_FLOOD_MIB = 512
_WARM_UP_MIB = 32
_VIEWERS = 3
_IDLE = 20
_IDLE_OF_SESSION = 4
"""As many as a session may have to one VM."""
_ECHOES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class _Relay:
    """One relay before the VNC server."""

    child: Child
    connect: Callable[[], Viewer]

    def cpu_s(self) -> float:
        """Return the CPU time of all its processes."""
        pids = [self.child.process.pid, *procs.descendants(self.child.process.pid)]
        return sum(procs.cpu_s(pid) for pid in pids)

    def processes(self) -> int:
        """Return how many there are."""
        return 1 + len(list(procs.descendants(self.child.process.pid)))


async def measure(checkout: Path | None) -> RelayRun:
    """Return what the relays cost, and how late ours is."""
    with bench_node(is_paused=True) as node:
        async with served.peers(node, 1) as (vm_id,), AsyncExitStack() as stack:
            paths = Paths(run=str(node.run_dir), data=str(node.data_dir))
            vnc = VMDirectory.of(paths, vm_id).socket("vnc")
            tls, url = await stack.enter_async_context(served.daemon(node))
            console = Console(url).log_in({"open": True})
            relays = {OURS_TLS: _Relay(child=tls, connect=lambda: console.open_screen(vm_id))}
            plain, link = await stack.enter_async_context(others.plain_daemon(node))
            relays[OURS] = _Relay(child=plain, connect=lambda: link.open_screen(vm_id))
            missing: dict[str, str] = {}
            certificate = served.state_dir(node) / "certificate.pem"
            for name, pem in ((WEBSOCKIFY, None), (WEBSOCKIFY_TLS, certificate)):
                with _may_be_missing(name, missing):
                    relays[name] = await stack.enter_async_context(_websockify(vnc, node, pem))
            with _may_be_missing(ORIGINAL, missing):
                relays[ORIGINAL] = await stack.enter_async_context(_original(vnc, node, checkout))
            rates = await asyncio.to_thread(_rates, relays)
            direct_ms, relayed_ms = await asyncio.to_thread(_latencies, url, vm_id, str(vnc))
    return RelayRun(rates=rates, direct_ms=direct_ms, relayed_ms=relayed_ms, missing=missing)


@contextmanager
def _may_be_missing(name: str, missing: dict[str, str]) -> Generator[None]:
    try:
        yield
    except CannotRunError as exc:
        missing[name] = str(exc)


@asynccontextmanager
async def _websockify(
    vnc: Path, node: BenchNode, certificate: Path | None
) -> AsyncGenerator[_Relay]:
    async with others.websockify(vnc, node.root, certificate=certificate) as (child, url):
        yield _Relay(child=child, connect=lambda: others.viewer_of(url, "/"))


@asynccontextmanager
async def _original(vnc: Path, node: BenchNode, checkout: Path | None) -> AsyncGenerator[_Relay]:
    if checkout is None:
        raise CannotRunError("no checkout of the original; name one: --original DIR")
    binary = await others.build_original(checkout, node.root)
    # It wants a name that ends with .sock.
    async with others.original(binary, vnc.parent, node.root) as (child, url):
        yield _Relay(child=child, connect=lambda: others.viewer_of(url, f"/vnc/{vnc.stem}"))


def _rates(relays: dict[str, _Relay]) -> dict[str, Rates]:
    found = {
        name: Rates(mb_s=[], cpu_s_per_gb=[], processes=_processes(relay))
        for name, relay in relays.items()
    }
    for number in range(_ROUNDS):
        names = list(relays)[:: 1 if number % 2 else -1]
        for name in names:
            mb_s, cpu_s = _rate(relays[name])
            found[name].mb_s.append(mb_s)
            found[name].cpu_s_per_gb.append(cpu_s)
    return found


def _rate(relay: _Relay) -> tuple[float, float]:
    """Return MB/s and CPU seconds a GB of one flood."""
    viewer = relay.connect()
    viewer.shake_hands()
    viewer.flood(_WARM_UP_MIB)
    before_s = relay.cpu_s()
    took_s = viewer.flood(_FLOOD_MIB)
    cpu_s = relay.cpu_s() - before_s
    viewer.close()
    megabytes = _FLOOD_MIB * (1 << 20) / 1e6
    return megabytes / took_s, 1000 * cpu_s / megabytes


def _processes(relay: _Relay) -> int:
    viewers = [relay.connect() for _ in range(_VIEWERS)]
    for viewer in viewers:
        viewer.shake_hands()
    count = relay.processes()
    for viewer in viewers:
        viewer.close()
    return count


def _latencies(url: str, vm_id: str, vnc: str) -> tuple[list[list[float]], list[list[float]]]:
    """Return times there and back, without the relay and through it, a list a round each."""
    idle: list[Viewer] = []
    while len(idle) < _IDLE:
        console = Console(url).log_in({"open": True})
        idle += [console.open_screen(vm_id) for _ in range(_IDLE_OF_SESSION)]
    direct = Viewer.bare(vnc)
    relayed = Console(url).log_in({"open": True}).open_screen(vm_id)
    for viewer in (direct, relayed, *idle):
        viewer.shake_hands()
    found: tuple[list[list[float]], list[list[float]]] = ([], [])
    for _ in range(_ROUNDS):
        for viewer, times in zip((direct, relayed), found, strict=True):
            times.append([viewer.echo() for _ in range(_ECHOES)])
    return found


async def main(checkout: Path | None) -> None:
    """Measure and print what was found."""
    if checkout is not None:
        # The network is new, and so is its loopback.
        _ = await command.run(["ip", "link", "set", "lo", "up"])
    print(msgspec.json.encode(await measure(checkout)).decode())


if __name__ == "__main__":
    try:
        asyncio.run(main(Path(sys.argv[1]) if sys.argv[1:] else None))
    except (NodeError, OSError, CannotRunError) as exc:
        sys.exit(str(exc))
