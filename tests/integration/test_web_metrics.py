"""Metrics of real VMs, from the driver's files to what a Prometheus reads."""

import asyncio
import contextlib
import dataclasses
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from fakes.fake_qga import FakeQga
from fakes.fake_qmp import FakeQmp
from fakes.published import make_record, publish
from fakes.web_api import FakeGuard, silent
from integration.test_web_daemon import Daemon, daemon, shared, systemd
from integration.vmnode import WAIT_S, VMNode
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from qemu_node.config.node import NodeConfig, Paths
from qemu_node.errors import NodeError
from qemu_node.vm.life.usage import UsageMeter
from qemu_node.web.fleet import guests
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.frame.application import add_routes, make_application
from qemu_node.web.metrics.metricsroutes import MetricsRoutes
from qemu_node.web.metrics.scrape import Scraper

__all__ = ["daemon", "shared", "systemd"]

pytestmark = pytest.mark.timeout(600)

MANY = 500
READY = "small guest ready"
Samples = dict[str, list[tuple[dict[str, str], float]]]


def read(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def of(found: Samples, name: str, **labels: str) -> float:
    """Return the value of the one series that has these labels."""
    values = [
        value
        for have, value in found.get(f"qemu_node_{name}", [])
        if labels.items() <= have.items()
    ]
    assert len(values) == 1, (name, labels, values)
    return values[0]


async def scrape(port: int, **headers: str) -> str:
    """Ask as a Prometheus on the node does: no token, over https."""
    connector = aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"https://127.0.0.1:{port}/metrics"
        async with session.get(url, headers=headers) as reply:
            assert reply.status == 200, await reply.text()
            return await reply.text()


@pytest.fixture
async def served(paths: Paths) -> AsyncIterator["Served"]:
    async with serving(paths) as one:
        yield one


@pytest.fixture
def paths(short_tmp_path: Path) -> Paths:
    return Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))


@dataclasses.dataclass
class Served:
    fleet: Fleet
    client: "TestClient[Any, Any]"

    async def get(self) -> Samples:
        async with self.client.get("/metrics") as reply:
            assert reply.status == 200
            return read(await reply.text())


@contextlib.asynccontextmanager
async def serving(paths: Paths) -> AsyncGenerator[Served]:
    async with Fleet(paths, ask=silent) as fleet:
        app = make_application()
        routes = MetricsRoutes(Scraper(fleet, NodeConfig(paths=paths), fresh_s=0.0)).routes()
        add_routes(app, routes, guard=FakeGuard(), find_vm=fleet.get)
        async with TestClient(TestServer(app)) as client:
            yield Served(fleet, client)


@pytest.mark.needs_qemu
@pytest.mark.needs_root
class TestDaemon:
    """`qemu-node serve` as its own user: what only root can read comes from the driver."""

    @pytest.fixture
    def image(self, small_guest_image: Path) -> Path:
        return small_guest_image

    async def test_two_guests_are_told_with_what_only_the_driver_can_read(
        self, shared: VMNode, daemon: Daemon
    ) -> None:
        first = await shared.start(shared.request())
        other = await shared.start(
            shared.request(task="other", alloc_id="22222222-2222-3333-4444-555555555555")
        )
        missing = dataclasses.replace(shared.request(task="third"), image="/images/missing.raw")
        with pytest.raises(NodeError):
            await shared.start(missing)
        await shared.supervisor._measure()
        await shared.supervisor.report()
        daemon.start()
        await daemon.told("READY=1")

        async with asyncio.timeout(WAIT_S):
            while True:
                text = await scrape(daemon.port, Accept="text/plain;version=0.0.4")
                found = read(text)
                # The daemon is ready before each QEMU has answered it.
                if [up for _, up in found.get("qemu_node_vm_monitor_up", [])] == [1, 1]:
                    break
                await asyncio.sleep(0.1)
        one, two = first.record.vm_id, other.record.vm_id
        assert {labels["vm_id"] for labels, _ in found["qemu_node_vm_info"]} == {one, two}
        for vm in (first, other):
            vm_id = vm.record.vm_id
            assert of(found, "vm_state", vm_id=vm_id, state="running") == 1
            assert of(found, "vm_memory_pss_bytes", vm_id=vm_id) > 1 << 20
            assert of(found, "vm_overlay_bytes", vm_id=vm_id) > 0
            assert of(found, "vm_disk_written_bytes_total", vm_id=vm_id) >= 0
            assert of(found, "vm_cpu_seconds_total", vm_id=vm_id, mode="user") > 0
            assert of(found, "vm_memory_plugged_bytes", vm_id=vm_id) == vm.record.memory_bytes
            assert of(found, "vm_monitor_up", vm_id=vm_id) == 1
        assert of(found, "vms", state="running") == 2
        assert of(found, "vm_starts_total", result="started") == 2
        assert of(found, "vm_starts_total", result="failed") == 1
        assert of(found, "vm_start_failures_total", step="image") == 1
        assert of(found, "vm_start_duration_seconds_count") == 2
        assert of(found, "images") == 0, "these guests' image is a file, not of the cache"
        assert of(found, "problems", source="driver") == 0
        assert found["process_resident_memory_bytes"][0][1] > 1 << 20

        openmetrics = await scrape(daemon.port, Accept="application/openmetrics-text;version=1.0.0")
        assert list(parse_openmetrics(openmetrics))  # type: ignore[no-untyped-call]

        os.kill(first.record.pid, signal.SIGKILL)
        await shared.ended(first)
        await shared.supervisor.report()
        while one in (text := await scrape(daemon.port)):
            await asyncio.sleep(0.5)
        found = read(text)
        assert of(found, "vm_ends_total", outcome="qemu") == 1
        assert of(found, "vms", state="running") == 1
        assert of(found, "vm_state", vm_id=two, state="running") == 1
        assert await daemon.end(signal.SIGTERM) == 0, daemon.log()

    async def test_counts_outlive_the_driver(self, shared: VMNode) -> None:
        vm = await shared.start(shared.request())
        await shared.supervisor.report()
        following = await shared.restarted()
        await following.supervisor.recover(vm.state)
        other = dataclasses.replace(shared.request(task="other"), image="/images/missing.raw")
        with pytest.raises(NodeError):
            await following.start(other)
        await following.supervisor.report()
        async with serving(shared.paths) as served:
            found = await served.get()
        assert of(found, "vm_starts_total", result="started") == 1
        assert of(found, "vm_starts_total", result="failed") == 1
        await following.close()


@pytest.mark.needs_qemu
class TestGuest:
    """What a guest says while somebody collects."""

    @pytest.fixture
    def image(self, small_guest_image: Path) -> Path:
        return small_guest_image

    async def test_a_guest_says_how_much_it_uses_although_nobody_looks(
        self, node: VMNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guests, "_MEASURED_POLL_S", 1)
        monkeypatch.setattr(guests, "_MEMORY_LOOK_S", 0.2)
        vm = await node.start(node.request())
        await node.printed(READY)
        async with serving(node.paths) as served:
            name = "qemu_node_vm_memory_used_bytes"
            assert name not in await served.get(), "nobody has asked it yet"
            while name not in (found := await served.get()):
                await asyncio.sleep(0.2)
        used = of(found, "vm_memory_used_bytes", vm_id=vm.record.vm_id)
        assert 1 << 20 < used < 512 << 20
        assert of(found, "vm_memory_used_timestamp_seconds", vm_id=vm.record.vm_id) > 1e9


class TestMany:
    """Hundreds of VMs."""

    async def test_500_vms_are_told_whole_to_several_at_once(self, paths: Paths) -> None:
        for number in range(MANY):
            record = make_record(paths, f"web-{number:012x}")
            directory = publish(paths, record)
            UsageMeter(record.process).publish(directory.usage_json)
        async with serving(paths) as served:
            for found in await asyncio.gather(*(served.get() for _ in range(3))):
                assert len(found["qemu_node_vm_info"]) == MANY
                assert len(found["qemu_node_vm_memory_pss_bytes"]) == MANY
                assert len(found["qemu_node_vm_cpu_seconds_total"]) == 2 * MANY
                # Each series once, and those that are no VM's.
                assert all(len(samples) <= 2 * MANY for samples in found.values())

    async def test_a_scrape_asks_no_vm_anything(self, paths: Paths) -> None:
        record = make_record(paths)
        directory = publish(paths, record)
        async with (
            FakeQmp(directory.socket("console")) as qemu,
            FakeQga(directory.socket("qga")) as agent,
            serving(paths) as served,
        ):
            async with served.fleet.monitor(record.vm_id) as qmp:
                assert qmp.is_open
            asked, told = len(qemu.commands), len(agent.commands)
            for _ in range(20):
                found = await served.get()
                assert of(found, "vm_monitor_up", vm_id=record.vm_id) == 1
            # The guest is asked how much it uses at most once in that time.
            extra = [name for name in qemu.commands[asked:] if not name.startswith("qom-")]
            assert extra == []
            assert len(qemu.commands) - asked <= 2
            assert len(agent.commands) == told
