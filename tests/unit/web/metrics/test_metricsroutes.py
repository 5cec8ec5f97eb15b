"""Scrapes: together, one after another, and by those who do not read."""

import asyncio
import contextlib
import gzip
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientConnectionResetError, ClientError, web
from aiohttp.test_utils import TestClient, TestServer
from fakes.published import make_record, publish
from fakes.web_api import FakeGuard, silent
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from qemu_node.config.node import NodeConfig, Paths
from qemu_node.host.files.tree import remove_tree
from qemu_node.vm.life.usage import UsageMeter
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.frame.application import add_routes, make_application
from qemu_node.web.http.headers import takes_gzip
from qemu_node.web.metrics.metricsroutes import MetricsRoutes
from qemu_node.web.metrics.scrape import Exposition, Scraper, wants_openmetrics

METRICS = web.AppKey("metrics", MetricsRoutes)
PLAIN = {"Accept-Encoding": "identity"}


@pytest.fixture
def paths(short_tmp_path: Path) -> Paths:
    return Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))


@contextlib.asynccontextmanager
async def served(
    paths: Paths, *, fresh_s: float = 0.0, **limits: Any
) -> AsyncGenerator[tuple[Fleet, TestClient[Any, Any]]]:
    paths.vm_run_dir.mkdir(parents=True, exist_ok=True)
    async with Fleet(paths, ask=silent) as fleet:
        scraper = Scraper(fleet, NodeConfig(paths=paths), fresh_s=fresh_s)
        app = make_application()
        app[METRICS] = metrics = MetricsRoutes(scraper, **limits)
        add_routes(app, metrics.routes(), guard=FakeGuard(), find_vm=fleet.get)
        async with TestClient(TestServer(app)) as client:
            yield fleet, client


async def scrape(client: TestClient[Any, Any]) -> dict[str, list[dict[str, str]]]:
    """Return the labels of each series, by name."""
    found: dict[str, list[dict[str, str]]] = {}
    async with client.get("/metrics", headers=PLAIN) as reply:
        assert reply.status == 200
        for family in text_string_to_metric_families(await reply.text()):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample.labels)
    return found


async def test_a_vm_is_there_with_what_its_driver_wrote_down(paths: Paths) -> None:
    record = make_record(paths)
    directory = publish(paths, record)
    UsageMeter(record.process, overlay=directory.vm_json).publish(directory.usage_json)
    async with served(paths) as (_, client):
        found = await scrape(client)
    (info,) = found["qemu_node_vm_info"]
    assert (info["nomad_job"], info["task"], info["namespace"]) == ("shop", "web", "default")
    assert "token=1" not in info["image"]
    of_vm = {"vm_id": record.vm_id}
    for name in ("memory_pss_bytes", "overlay_bytes", "usage_timestamp_seconds", "vcpus"):
        assert found[f"qemu_node_vm_{name}"] == [of_vm]
    assert {labels["mode"] for labels in found["qemu_node_vm_cpu_seconds_total"]} == {
        "user",
        "system",
    }
    assert "process_resident_memory_bytes" in found


async def test_a_vm_that_ended_disappears(paths: Paths) -> None:
    """opennebula/one#6236: metrics of deleted VMs lived until a restart."""
    publish(paths, make_record(paths, "stays-0123456789ab"))
    async with served(paths) as (fleet, client):
        before = {name: len(series) for name, series in (await scrape(client)).items()}
        for number in range(100):
            vm_id = f"goes-{number:012x}"
            directory = publish(paths, make_record(paths, vm_id))
            fleet._refresh(vm_id)
            if number % 20 == 0:
                during = await scrape(client)
                assert {labels["vm_id"] for labels in during["qemu_node_vm_info"]} == {
                    "stays-0123456789ab",
                    vm_id,
                }
            remove_tree(directory.run)
            remove_tree(directory.data)
            fleet._refresh(vm_id)
        after = {name: len(series) for name, series in (await scrape(client)).items()}
    assert after == before


async def test_two_at_once_get_the_same_and_it_is_made_once(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(paths, make_record(paths))
    made = []
    make = Scraper._make

    def count(*given: Any) -> Any:
        made.append(given)
        return make(*given)

    monkeypatch.setattr(Scraper, "_make", count)

    async def get() -> str:
        async with client.get("/metrics", headers=PLAIN) as reply:
            return await reply.text()

    async with served(paths, fresh_s=3600.0) as (_, client):
        texts = await asyncio.gather(*(get() for _ in range(8)))
        assert len(set(texts)) == 1
        assert len(made) == 1
        async with client.get("/metrics", headers={"Accept-Encoding": "gzip"}) as reply:
            assert reply.headers["Content-Encoding"] == "gzip"
        assert len(made) == 2, "another form is made for itself"


async def test_a_scrape_that_fails_is_followed_by_one_that_works(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(paths) as (_, client):
        with monkeypatch.context() as broken:
            broken.setattr(Scraper, "_collect", lambda *_: 1 / 0)
            async with client.get("/metrics") as reply:
                assert reply.status == 500
        assert "qemu_node_vms" in await scrape(client)


@pytest.fixture
def long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the kernel takes for a client that reads nothing."""
    long = Exposition(body=b"#" * (32 << 20), content_type="text/plain", is_gzip=False)

    async def get(*_: object, **__: object) -> Exposition:
        return long

    monkeypatch.setattr(Scraper, "get", get)


@contextlib.asynccontextmanager
async def hanging(client: TestClient[Any, Any]) -> AsyncGenerator[socket.socket]:
    """Ask, and read nothing but the beginning of the answer."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (client.host, client.port))
        await loop.sock_sendall(sock, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await loop.sock_recv(sock, 8) == b"HTTP/1.1"
        yield sock


@pytest.mark.usefixtures("long_text")
async def test_a_client_that_does_not_read_is_given_up(paths: Paths) -> None:
    async with served(paths, send_s=0.1) as (_, client), hanging(client) as sock:
        loop = asyncio.get_running_loop()
        got = 0
        while client.app[METRICS]._sending:
            await asyncio.sleep(0.01)
        with contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(sock, 1 << 20):
                got += len(data)
        assert got < 32 << 20, "the server has closed the connection"


async def test_a_client_that_leaves_before_its_answer_is_no_error_of_ours(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def gone(*_: object) -> None:
        raise ClientConnectionResetError("Cannot write to closing transport")

    async with served(paths) as (_, client):
        with monkeypatch.context() as broken, contextlib.suppress(ClientError):
            broken.setattr(web.StreamResponse, "write", gone)
            async with client.get("/metrics") as reply:
                await reply.read()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.usefixtures("long_text")
async def test_few_are_sent_to_at_a_time(paths: Paths) -> None:
    async def status() -> int:
        async with client.get("/metrics") as reply:
            if reply.status == 503:
                assert "hint" in await reply.json()
            return reply.status

    async with served(paths, send_s=3600.0, sending_max=2) as (_, client):
        async with hanging(client), hanging(client):
            assert await status() == 503
        # Both have gone: the next ones get in.
        while await status() != 200:
            await asyncio.sleep(0.01)


async def test_each_client_gets_the_form_that_it_asks_for(paths: Paths) -> None:
    publish(paths, make_record(paths))
    async with served(paths) as (_, client):
        # As Prometheus 2.42 asks.
        accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        async with client.get("/metrics", headers={"Accept": accept}) as reply:
            assert reply.content_type == "application/openmetrics-text"
            text = await reply.text()
            assert text.endswith("# EOF\n")
            assert list(parse_openmetrics(text))  # type: ignore[no-untyped-call]
        async with client.get("/metrics", headers={"Accept": "*/*"}) as reply:
            assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert reply.headers["Cache-Control"] == "no-store"
            assert reply.headers["X-Content-Type-Options"] == "nosniff"


@given(st.text())
def test_no_accept_header_is_an_error(header: str) -> None:
    wants_openmetrics(header)
    takes_gzip(header)


async def test_a_version_that_a_client_makes_up_is_not_repeated(paths: Paths) -> None:
    async with served(paths) as (_, client):
        accept = "application/openmetrics-text;version=2.0.0-evil<script>"
        async with client.get("/metrics", headers={"Accept": accept}) as reply:
            assert "evil" not in str(reply.headers)


async def test_gzip_unpacks_to_the_text(paths: Paths) -> None:
    publish(paths, make_record(paths))
    async with Fleet(paths, ask=silent) as fleet:
        scraper = Scraper(fleet, NodeConfig(paths=paths))
        packed = await scraper.get("", is_gzip=True)
        assert b"qemu_node_vm_info" in gzip.decompress(packed.body)
