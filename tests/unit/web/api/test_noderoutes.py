"""How the node is."""

from fakes.published import VM_ID, make_record, publish
from fakes.web_api import READER, running_api

from qemu_node.config.node import Paths
from qemu_node.vm.record.nodefile import CacheFacts, Counts, ImageFacts, NodeFile

CACHE = CacheFacts(
    count=1,
    bytes=4096,
    in_use=1,
    in_use_bytes=4096,
    images=(ImageFacts(name="debian.qcow2", digest="sha256:00", size_bytes=8192, vms=2),),
)


async def test_the_node_is_shown_to_whom_it_concerns(paths: Paths) -> None:
    publish(paths, make_record(paths))
    starting = publish(paths, make_record(paths, "db-ba9876543210"))
    starting.vm_json.unlink()
    async with running_api(paths) as api:
        shown = await api.get("/api/v1/node")
        assert shown["name"] == "node"
        assert shown["vms"] == {"unmanaged": 1}
        assert shown["others"] == [{"vm_id": "db-ba9876543210", "state": "orphan"}]
        assert shown["memory"]["total_bytes"] > 0
        assert "images" not in shown, "no driver has told of them"
        assert VM_ID not in str(shown)
        api.guard.acl = READER
        await api.get("/api/v1/node", 403)


async def test_what_only_root_can_read_comes_from_the_driver_with_its_age(paths: Paths) -> None:
    NodeFile(paths).add(
        Counts(), now_s=0.0, driver_version="1", problems=("no bridge",), cache=CACHE
    )
    async with running_api(paths) as api:
        shown = await api.get("/api/v1/node")
        assert [image["name"] for image in shown["images"]] == ["debian.qcow2"]
        assert (shown["cache"]["count"], shown["cache"]["bytes"]) == (1, 4096)
        assert shown["cache"]["age_s"] > 1000
        assert "no bridge" in shown["problems"]
