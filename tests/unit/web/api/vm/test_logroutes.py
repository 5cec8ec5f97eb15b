"""What a guest has printed, and what Nomad says of its task."""

from pathlib import Path

import pytest
from fakes.published import VM_ID, make_record, publish
from fakes.web_api import ApiUnderTest, running_api
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.config.node import Paths
from qemu_node.host.files.tree import remove_tree
from qemu_node.web.api.vm.logroutes import LOG_MAX_BYTES, last_lines

ALLOC = "11111111-2222-3333-4444-555555555555"
LOG = f"/api/v1/vms/{VM_ID}/log"


async def read_log(api: ApiUnderTest, path: str = LOG) -> bytes:
    async with api.client.get(path) as reply:
        assert reply.status == 200
        assert reply.content_type == "text/plain"
        assert reply.headers["Content-Disposition"] == "attachment"
        return await reply.read()


async def test_without_nomad_the_log_is_read_from_its_files(paths: Paths) -> None:
    record = make_record(paths)
    directory = publish(paths, record)
    logs = Path(record.alloc_dir) / "alloc" / "logs"
    logs.mkdir(parents=True)
    (logs / "web.stdout.0").write_bytes(b"one\ntwo\n\x1b[2Jthree\n")
    directory.serial_log.write_bytes(b"")
    async with running_api(paths) as api:
        assert await read_log(api) == b"one\ntwo\n\x1b[2Jthree\n"
        assert await read_log(api, f"{LOG}?lines=1") == b"\x1b[2Jthree\n"


async def test_a_vm_that_runs_without_a_readable_log_is_told_of_in_words(paths: Paths) -> None:
    publish(paths, make_record(paths))
    async with running_api(paths) as api:
        assert api.fleet.get(VM_ID) is not None
        problem = await api.get(LOG, 503)
    assert "cannot" in problem["message"], problem


async def test_the_log_of_an_ended_vm_is_there_as_long_as_its_files_are(paths: Paths) -> None:
    record = make_record(paths)
    directory = publish(paths, record)
    logs = Path(record.alloc_dir) / "alloc" / "logs"
    logs.mkdir(parents=True)
    (logs / "web.stdout.0").write_bytes(b"one\nlast words\n")
    async with running_api(paths) as api:
        assert await read_log(api) == b"one\nlast words\n"
        remove_tree(directory.run)
        async for vms in api.fleet.changes():
            if vms[VM_ID].end is not None:
                break
        assert await read_log(api, f"{LOG}?lines=1") == b"last words\n"
        remove_tree(Path(record.alloc_dir))
        assert await read_log(api) == b""


async def test_with_nomad_the_users_token_reads_the_log(paths: Paths) -> None:
    publish(paths, make_record(paths))
    path = f"/v1/client/fs/logs/{ALLOC}"
    async with running_api(paths, has_nomad=True) as api:
        api.guard.token = "t"
        api.nomad.answers = {path: (200, b"x" * (2 * LOG_MAX_BYTES))}
        assert len(await read_log(api)) == LOG_MAX_BYTES
        method, asked, token, _ = api.nomad.asked[0]
        assert (method, token) == ("GET", "t")
        assert asked == f"{path}?task=web&type=stdout&plain=true&origin=end&offset=65536"
        api.nomad.answers = {path: (403, b"Permission denied")}
        assert (await api.get(LOG, 403))["error"] == "nomad-refused"


@pytest.mark.parametrize("lines", ["0", "-1", "x", "", "1e3", "٣", "10001", "9" * 5000])
async def test_a_senseless_number_of_lines_is_refused(paths: Paths, lines: str) -> None:
    publish(paths, make_record(paths))
    async with running_api(paths) as api:
        assert (await api.get(f"{LOG}?lines={lines}", 400))["error"] == "bad-request"


async def test_the_tasks_events_are_nomads_the_newest_first(paths: Paths) -> None:
    publish(paths, make_record(paths))
    events = [
        {
            "Type": "Received",
            "DisplayMessage": "Task received\x1b[2J",
            "Time": 1_700_000_000 * 10**9,
        },
        {"Type": "Started", "DisplayMessage": "Started", "Time": 1_700_000_001 * 10**9},
        {"Type": "Odd", "DisplayMessage": "x" * 5000, "Time": -(2**62)},
    ]
    task = {"State": "running", "Restarts": 2, "Events": events}
    async with running_api(paths, has_nomad=True) as api:
        api.nomad.answers = {
            f"/v1/allocation/{ALLOC}": (200, {"ID": ALLOC, "TaskStates": {"web": task}})
        }
        shown = await api.get(f"/api/v1/vms/{VM_ID}/events")
    assert (shown["state"], shown["restarts"]) == ("running", 2)
    assert [event["kind"] for event in shown["events"]] == ["Started", "Received", "Odd"]
    assert shown["events"][1]["message"] == "Task received?[2J"
    assert shown["events"][1]["at"] == "2023-11-14T22:13:20Z"
    assert len(shown["events"][2]["message"]) == 400


async def test_without_nomad_there_are_no_events(paths: Paths) -> None:
    publish(paths, make_record(paths))
    async with running_api(paths) as api:
        assert (await api.get(f"/api/v1/vms/{VM_ID}/events"))["events"] == []


@given(
    lines=st.lists(st.binary(max_size=5).filter(lambda line: b"\n" not in line), min_size=1),
    count=st.integers(1, 5),
    is_whole=st.booleans(),
)
def test_the_last_lines_are_whole(lines: list[bytes], count: int, is_whole: bool) -> None:
    data = b"\n".join(lines) + (b"\n" if is_whole else b"")
    expected = b"".join(data.splitlines(keepends=True)[-count:]) if b"\r" not in data else None
    if expected is not None and not set(data) & {0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x85}:
        assert last_lines(data, count) == expected
