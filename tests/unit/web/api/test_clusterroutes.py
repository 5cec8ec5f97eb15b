"""The VMs of other nodes."""

from typing import Any

import msgspec
import pytest
from fakes.web_api import running_api

from qemu_node.config.node import Paths
from qemu_node.web.api.clusterroutes import console_of
from qemu_node.web.api.nomadtasks import ClusterNode

DRIVER = {"Detected": True, "Healthy": True}


def node(address: str = "192.0.2.7", said: str | None = None) -> ClusterNode:
    attributes = {} if said is None else {"driver.vm.console": said}
    raw = {"Address": address, "Drivers": {"vm": {**DRIVER, "Attributes": attributes}}}
    return msgspec.convert(raw, ClusterNode)


@pytest.mark.parametrize(
    ("found", "address"),
    [
        (node(), "https://192.0.2.7:5800"),
        (node("2001:db8::7"), "https://[2001:db8::7]:5800"),
        (node(""), ""),
        (node(said=":5801"), "https://192.0.2.7:5801"),
        (node("2001:db8::7", ":5801"), "https://[2001:db8::7]:5801"),
        (node(said=""), ""),
        (node(said=":5801/x"), ""),
        (node(said="https://console.example:443/x?y"), "https://console.example:443"),
        (node(said="javascript:alert(1)"), ""),
        (node(said="https://me:secret@console.example"), ""),
        (node(said="https://["), ""),
    ],
)
def test_a_nodes_console_is_where_it_says_or_at_the_usual_port(
    found: ClusterNode, address: str
) -> None:
    assert console_of(found) == address


async def test_the_cluster_is_what_the_users_token_may_see(paths: Paths) -> None:
    nodes: list[dict[str, Any]] = [
        {
            "ID": "1",
            "Name": "b",
            "Address": "192.0.2.1",
            "Status": "ready",
            "Drivers": {"vm": DRIVER},
        },
        {"ID": "2", "Name": "a", "Address": "192.0.2.2", "Drivers": {"docker": DRIVER}},
        {"ID": "3", "Name": "c", "Drivers": None},
    ]
    vms = [{"ID": "x", "Name": "web.vm[0]", "Namespace": "default", "JobID": "web", "NodeID": "1"}]
    async with running_api(paths, has_nomad=True) as api:
        api.guard.token = "t"
        api.nomad.answers = {"/v1/nodes": (200, nodes), "/v1/allocations": (200, vms)}
        shown = await api.get("/api/v1/cluster")
        assert [row["name"] for row in shown["nodes"]] == ["b"]
        assert [row["alloc_id"] for row in shown["vms"]] == ["x"]
        assert {token for _, _, token, _ in api.nomad.asked} == {"t"}
        assert any(
            "namespace=*&task_states=false&filter=any" in path for _, path, _, _ in api.nomad.asked
        )
        api.nomad.answers |= {"/v1/nodes": (403, b"Permission denied")}
        assert (await api.get("/api/v1/cluster"))["nodes"] == []
        api.nomad.answers |= {"/v1/nodes": (500, b"no leader")}
        assert (await api.get("/api/v1/cluster", 502))["error"] == "nomad-refused"


async def test_without_nomad_the_cluster_is_empty(paths: Paths) -> None:
    async with running_api(paths) as api:
        assert await api.get("/api/v1/cluster") == {"nodes": [], "vms": []}
