"""The whole console as it is served: nothing but the login answers a stranger."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from fakes.console import make_browser

from qemu_node.config.node import NodeConfig, Paths
from qemu_node.config.web import WebConfig
from qemu_node.web.service.serving import serving_by_link

OPEN = {
    ("GET", "/api/v1/login"),
    ("POST", "/api/v1/login"),
    ("POST", "/api/v1/login/oidc"),
    ("GET", "/oidc/callback"),
    ("POST", "/api/v1/logout"),
}
PAGE = re.compile(r"/$|/page/|/favicon|/icon|/index")
"""The page's own files are for everybody: there is nothing in them."""


def operations(document: Any) -> dict[tuple[str, str], Any]:
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


async def test_every_route_but_the_login_asks_who_it_is(tmp_path: Path) -> None:
    config = NodeConfig(
        paths=Paths(run=str(tmp_path / "run"), data=str(tmp_path / "data")),
        web=msgspec.structs.replace(WebConfig(), port=1),
    )
    (tmp_path / "run" / "vm").mkdir(parents=True)
    async with (
        serving_by_link(config) as make_link,
        make_browser() as operator,
        make_browser() as stranger,
    ):
        address, _, link = make_link().partition("/#link=")
        assert urlsplit(address).hostname == "127.0.0.1"
        headers = {"Origin": address, "X-QN": "1", "Sec-Fetch-Site": "same-origin"}
        login = f"{address}/api/v1/login"
        async with operator.post(login, json={"link": link}, headers=headers) as reply:
            assert reply.status == 200
        async with operator.get(f"{address}/api/v1/openapi.json") as reply:
            listed = operations(await reply.json())
        assert len(listed) > 20
        answered = set()
        for (method, path), operation in listed.items():
            url = address + re.sub(r"\{\w+\}", "a", path)
            async with stranger.request(
                method, url, headers=headers, json={} if method == "POST" else None
            ) as reply:
                is_open = "security" not in operation
                if reply.status == 401 and not is_open:
                    continue
                answered.add((method, path))
                assert is_open, (method, path, reply.status)
        assert {(m, p) for m, p in answered if not PAGE.search(p)} <= OPEN
