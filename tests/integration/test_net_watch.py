"""What the kernel tells of changes by others: real sockets. (With VLANs: tests/network.)"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from fakes.published import make_record, publish
from integration.vmnode import until
from network.namespaces import ip, private_network

from qemu_node.config.network import NetworkConfig
from qemu_node.config.node import Paths
from qemu_node.host.process.command import run_blocking
from qemu_node.net.errors import NetworkError
from qemu_node.net.filter import guard
from qemu_node.net.manager import PortManager
from qemu_node.net.netlink import watch
from qemu_node.net.netlink.notices import Watched
from qemu_node.net.netlink.watch import Watch
from qemu_node.vm.vmnetwork import Network

pytestmark = [pytest.mark.needs_root]

TABLE = "inet operator"
WATCHED = Watched(
    bridge="br0", uplink="", management_vlan=4094, tables=frozenset({TABLE}), ports={}
)
UIDS = range(200_000, 200_010)
GUARD = f"inet qn_user_{UIDS.start}_{len(UIDS)}"


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `scenario` in a network of its own, which its loop's threads are in as well."""
    with private_network():
        asyncio.run(scenario())


async def next_losses(watch: Watch) -> list[str]:
    async with asyncio.timeout(60):
        return await watch.losses(lambda: WATCHED)


def nft(command: str) -> None:
    run_blocking(["nft", command])


def test_what_does_not_concern_vms_is_passed_over() -> None:
    async def scenario() -> None:
        with Watch() as heard:
            nft("add table inet other; delete table inet other")
            ip("link add other type bridge")
            nft(f"add table {TABLE}; delete table {TABLE}")
            assert await next_losses(heard) == [f"table {TABLE}"]
            ip("link add br0 type bridge")
            assert await next_losses(heard) == ["br0"]

    run(scenario)


def test_messages_of_others_than_the_kernel_are_not_believed() -> None:
    async def scenario() -> None:
        with Watch() as heard:
            nfgen = struct.pack("=BBH", 1, 0, 0)
            name = b"operator\0"
            body = nfgen + struct.pack("=HH", 4 + len(name), 1) + name.ljust(12, b"\0")
            forged = struct.pack("=IHHII", 16 + len(body), 0x0A02, 0, 0, 0) + body
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as liar:
                port, _ = heard._sockets[1].getsockname()
                assert liar.sendto(forged, (port, 0)) == len(forged)
            ip("link add br0 type bridge")
            assert await next_losses(heard) == ["br0"]

    run(scenario)


@pytest.mark.parametrize("limit", [("_BUFFER_BYTES", 1), ("_NOTICES_MAX", 5)])
def test_more_messages_than_fit_are_a_loss_of_unknown_size(
    monkeypatch: pytest.MonkeyPatch, limit: tuple[str, int]
) -> None:
    monkeypatch.setattr(watch, *limit)

    async def scenario() -> None:
        with Watch() as heard:
            # The loop does not get to read in between.
            ip("\n".join(f"link add a{n} type veth peer name b{n}" for n in range(20)))
            [lost] = await next_losses(heard)
            assert "unknown" in lost

    run(scenario)


def user_network(root: Path, **settings: Any) -> Network:
    """Return the network of a node on which a VM in user mode lives."""
    paths = Paths(run=str(root / "r"), data=str(root / "d"))
    publish(paths, make_record(paths))
    config = NetworkConfig(**settings)
    return Network(paths, config, PortManager(config, identity="test", uids=UIDS))


def rules() -> str:
    return run_blocking(["nft", "list", "ruleset"]).stdout.decode()


@pytest.mark.parametrize("command", ["flush ruleset", f"flush table {GUARD}"])
def test_the_guard_of_user_mode_comes_back_when_somebody_removes_its_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    # As before nft 1.1 and Linux 6.10: nobody owns a table.
    monkeypatch.setattr(guard, "_FLAGS", "")

    async def scenario() -> None:
        network = user_network(tmp_path)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(network.watch())
            await network.reconcile()
            loaded = rules()
            assert f"skuid {UIDS.start}-{UIDS.stop - 1}" in loaded
            nft(command)
            assert rules() != loaded
            await until(rules, lambda text: text == loaded, "rules")
            watching.cancel()
        await network.aclose()

    run(scenario)


def test_the_guard_of_user_mode_comes_back_at_the_next_reconcile_at_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_FLAGS", "")

    async def scenario() -> None:
        network = user_network(tmp_path)
        for _ in range(2):
            await network.reconcile()
            assert GUARD in rules()
            nft("flush ruleset")
        await network.aclose()

    run(scenario)


def test_a_guard_that_the_operator_does_not_want_stays_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        network = user_network(tmp_path, allow_host=True)
        await network.reconcile()
        assert rules() == ""
        await network.aclose()

    run(scenario)


def test_where_the_kernel_tells_nothing_that_is_said_and_nothing_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_NFT_GROUPS", (4711,))

    async def scenario() -> None:
        open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        with pytest.raises(NetworkError, match="cannot watch the network"):
            await user_network(tmp_path).watch()
        assert len(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208

    run(scenario)
