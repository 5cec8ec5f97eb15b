"""Which VMs the API shows to whom, and what of them."""

import msgspec
from fakes.fake_qmp import FakeQmp
from fakes.published import VM_ID, make_record, publish
from fakes.web_api import READER, running_api

from qemu_node.config.node import Paths

OTHER = "db-ba9876543210"


async def test_only_the_vms_that_somebody_may_see_are_listed(paths: Paths) -> None:
    publish(paths, make_record(paths))
    publish(paths, make_record(paths, OTHER, namespace="secret"))
    async with running_api(paths) as api:
        assert [vm["vm_id"] for vm in (await api.get("/api/v1/vms"))["vms"]] == [VM_ID, OTHER]
        api.guard.acl = READER
        assert [vm["vm_id"] for vm in (await api.get("/api/v1/vms"))["vms"]] == [VM_ID]
        answer = await api.get(f"/api/v1/vms/{OTHER}", 404)
        assert answer["error"] == "no-such-vm"
        assert (await api.get(f"/api/v1/vms/{VM_ID}"))["rights"] == []


async def test_a_vm_is_shown_with_what_its_qemu_says(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    async with FakeQmp(directory.socket("console")), running_api(paths) as api:
        shown = await api.get(f"/api/v1/vms/{VM_ID}")
    assert shown["vm"]["job"] == "shop"
    assert shown["vm"]["uptime_s"] > 0
    assert shown["rights"] == ["view", "control", "agent-exec", "power"]
    assert shown["qemu"]["version"] == "10.0.0"
    assert shown["qemu"]["run_state"] == "running"
    assert shown["nics"][0]["forwards"] == ["127.0.0.1:20080 → 80"]


async def test_nothing_of_the_hosts_paths_is_shown(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    async with FakeQmp(directory.socket("console")), running_api(paths) as api:
        text = str(await api.get(f"/api/v1/vms/{VM_ID}"))
    assert paths.run not in text
    assert paths.data not in text


async def test_a_vm_that_has_ended_is_shown_without_a_qemu(paths: Paths) -> None:
    record = make_record(paths)
    publish(paths, msgspec.structs.replace(record, start_time=record.start_time + 1))
    async with running_api(paths) as api:
        shown = await api.get(f"/api/v1/vms/{VM_ID}")
        assert shown["vm"]["state"] == "ended"
        assert "qemu" not in shown
        answer = await api.post(f"/api/v1/vms/{VM_ID}/reset", status=409)
    assert answer["error"] == "ended"
    assert answer["hint"]
