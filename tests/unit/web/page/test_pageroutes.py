import gzip
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from fakes.web_api import FakeGuard

from qemu_node.web.frame.application import add_routes, make_application
from qemu_node.web.page.pagefiles import PageFile, PageFiles
from qemu_node.web.page.pageroutes import PageRoutes

PACKED = gzip.compress(b"plain")
FILE = PageFile(content_type="text/javascript", packed=PACKED, etag="tag")
INDEX = PageFile(content_type="text/html", packed=gzip.compress(b"<p>"), etag="index")
FILES = PageFiles(version="v1", index=INDEX, assets={"app/a.mjs": FILE, "icon.svg": FILE})


@pytest.fixture
async def client() -> AsyncIterator["TestClient[Any, Any]"]:
    app = make_application()
    add_routes(app, PageRoutes(FILES).routes(), guard=FakeGuard(), find_vm=lambda _: None)
    async with TestClient(TestServer(app), auto_decompress=False) as client:
        yield client


async def test_page_has_its_policy_and_is_asked_for_each_time(
    client: "TestClient[Any, Any]",
) -> None:
    async with client.get("/") as reply:
        assert reply.status == 200
        assert "script-src 'self'" in reply.headers["Content-Security-Policy"]
        assert reply.headers["Cache-Control"] == "no-cache"
        tag, policy = reply.headers["ETag"], reply.headers["Content-Security-Policy"]
    async with client.get("/", headers={"If-None-Match": tag}) as reply:
        assert reply.status == 304
        assert reply.headers["Content-Security-Policy"] == policy


async def test_file_is_kept_for_ever_and_sent_as_the_browser_can_read_it(
    client: "TestClient[Any, Any]",
) -> None:
    path = "/assets/v1/app/a.mjs"
    async with client.get(path, headers={"Accept-Encoding": "gzip"}) as reply:
        assert (await reply.read(), reply.headers["Content-Encoding"]) == (PACKED, "gzip")
        assert "immutable" in reply.headers["Cache-Control"]
        assert reply.content_type == "text/javascript"
    async with client.get(path, headers={"Accept-Encoding": "identity"}) as reply:
        assert await reply.read() == b"plain"
        assert "Content-Encoding" not in reply.headers


@pytest.mark.parametrize(
    "path",
    [
        "/assets/v0/app/a.mjs",
        "/assets/v1/app/b.mjs",
        "/assets/v1/../v1/index.html",
        "/assets/v1/app/%2e%2e/%2e%2e/files.py",
        "/assets/v1/%00",
        "/assets//etc/passwd",
        "/assets/v1//etc/passwd",
    ],
)
async def test_nothing_but_the_files_of_this_version_is_served(
    client: "TestClient[Any, Any]", path: str
) -> None:
    async with client.get(path) as reply:
        assert reply.status == 404


async def test_icon_is_there(client: "TestClient[Any, Any]") -> None:
    async with client.get("/favicon.ico") as reply:
        assert reply.status == 200
