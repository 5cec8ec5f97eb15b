"""All routes of the API, and their document."""

import json
from pathlib import Path

from fakes.web_api import running_api

from qemu_node.config.node import Paths


async def test_the_document_has_every_route_with_its_right(paths: Paths) -> None:
    async with running_api(paths) as api:
        document = await api.get("/api/v1/openapi.json")
    listed = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert listed == {(route.method, route.path) for route in api.routes}
    assert all(
        operation["x-right"] for item in document["paths"].values() for operation in item.values()
    )
    log = document["paths"]["/api/v1/vms/{vm_id}/log"]["get"]
    assert log["parameters"][1]["name"] == "lines"
    assert "VMView" in document["components"]["schemas"]
    assert json.dumps(document)


async def test_the_page_names_every_route(paths: Paths) -> None:
    page = (Path(__file__).parents[4] / "docs" / "api.md").read_text()
    async with running_api(paths) as api:
        for route in api.routes:
            assert route.right is not None
            assert f"| `{route.method} {route.path}` | {route.right} |" in page


async def test_a_method_that_a_path_does_not_know_is_named(paths: Paths) -> None:
    async with running_api(paths) as api, api.client.delete("/api/v1/vms") as reply:
        assert reply.status == 405
        assert "GET" in reply.headers["Allow"]
        assert (await reply.json())["error"] == "method-not-allowed"
