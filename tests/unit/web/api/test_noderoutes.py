"""How the node is."""

from pathlib import Path

import pytest
from fakes.published import VM_ID, make_record, publish
from fakes.web_api import READER, running_api

from qemu_node.config.node import Paths
from qemu_node.web.api.noderoutes import parse_meminfo, read_ksm


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
        assert shown["images"] == []
        assert VM_ID not in str(shown)
        api.guard.acl = READER
        await api.get("/api/v1/node", 403)


def test_a_kernel_without_ksm_has_none(tmp_path: Path) -> None:
    assert read_ksm(tmp_path) is None
    for name, value in (("run", 1), ("pages_sharing", 3), ("pages_shared", 1), ("full_scans", 7)):
        (tmp_path / name).write_text(f"{value}\n")
    ksm = read_ksm(tmp_path)
    assert ksm is not None
    assert (ksm.is_running, ksm.full_scans) == (True, 7)
    assert ksm.merged_bytes == 3 * ksm.shared_bytes


@pytest.mark.parametrize(
    "text", ["", "MemTotal: 1 kB", "MemTotal: x kB\nMemAvailable: 1 kB", "MemTotal:\nMemAvailable:"]
)
def test_a_meminfo_that_does_not_say_it_is_none(text: str) -> None:
    assert parse_meminfo(text) is None


def test_meminfo_is_in_kibibytes() -> None:
    memory = parse_meminfo("MemTotal:  2 kB\nMemFree: 0 kB\nMemAvailable:    1 kB\n")
    assert memory is not None
    assert (memory.total_bytes, memory.available_bytes) == (2048, 1024)
