"""What a guest's agent is asked and told, and what a hostile one can do with that."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fakes.fake_qga import FakeProgram, FakeQga
from fakes.published import VM_ID, make_record, publish
from fakes.web_api import READER, running_api

from qemu_node.config.node import Paths
from qemu_node.qga.agent import GuestAgent
from qemu_node.qga.replies import ExecResult
from qemu_node.web.api.vm import agentroutes
from qemu_node.web.api.vm.agentroutes import OUTPUT_MAX_CHARS

OTHER = "db-ba9876543210"
AGENT = f"/api/v1/vms/{VM_ID}/agent"


@pytest.mark.parametrize(
    ("name", "reply", "answer"),
    [
        ("hostname", {"guest-get-host-name": {"host-name": "a\x1b[2J"}}, {"host_name": "a?[2J"}),
        (
            "users",
            {"guest-get-users": [{"user": "anna", "login-time": 1.5}]},
            {"users": [{"name": "anna", "login_time_s": 1.5}]},
        ),
        (
            "load",
            {"guest-get-load": {"load1m": 0.5, "load5m": 1, "load15m": -2}},
            {"over_1_min": 0.5, "over_5_min": 1.0, "over_15_min": 0.0},
        ),
        (
            "filesystems",
            {
                "guest-get-fsinfo": [
                    {
                        "mountpoint": "/",
                        "name": "sda1",
                        "type": "ext4",
                        "used-bytes": 5,
                        "total-bytes": 2**80,
                        "disk": [],
                    }
                ]
            },
            {
                "filesystems": [
                    {
                        "mountpoint": "/",
                        "name": "sda1",
                        "type": "ext4",
                        "used_bytes": 5,
                        "total_bytes": None,
                    }
                ]
            },
        ),
    ],
    ids=["hostname", "users", "load", "filesystems"],
)
async def test_what_a_guest_says_is_made_safe(
    paths: Paths, name: str, reply: dict[str, object], answer: dict[str, Any]
) -> None:
    directory = publish(paths, make_record(paths))
    async with FakeQga(directory.socket("qga"), replies=reply), running_api(paths) as api:
        assert await api.get(f"{AGENT}/{name}") == answer


async def test_osinfo_and_interfaces_are_typed(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    async with FakeQga(directory.socket("qga")), running_api(paths) as api:
        assert (await api.get(f"{AGENT}/osinfo"))["id"] == "debian"
        shown = await api.get(f"{AGENT}/interfaces")
    assert shown["interfaces"][1]["addresses"][0] == "10.0.2.15"


_BOMBS = {
    "deep": b'{"return": ' + b"[" * 200_000,
    "long": b'{"return": {"host-name": "' + b"x" * 5_000_000 + b'"}}\n',
    "huge-number": b'{"return": ' + b"9" * 100_000 + b"}\n",
    "surrogate": b'{"return": {"host-name": "\\ud800"}}\n',
    "no-utf-8": b'{"return": {"host-name": "\xff"}}\n',
    "twice": b'{"return": {"host-name": "a", "host-name": 1}}\n',
    "another-type": b'{"return": [[[]]]}\n',
}


@pytest.mark.parametrize("bomb", _BOMBS.values(), ids=_BOMBS)
async def test_a_bomb_of_a_guest_agent_is_an_error_of_its_own_request(
    paths: Paths, bomb: bytes
) -> None:
    directory = publish(paths, make_record(paths))
    raw = {"guest-get-host-name": bomb}
    async with FakeQga(directory.socket("qga"), raw=raw), running_api(paths) as api:
        answer = await api.get(f"{AGENT}/hostname", 504)
        assert answer["error"] == "guest-agent"
        assert len(json.dumps(answer)) < 2000
        assert (await api.get("/api/v1/vms"))["vms"]


async def test_long_lists_of_a_guest_are_cut(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    many = [{"user": "x" * 1000} for _ in range(900)]
    replies: dict[str, object] = {"guest-get-users": many}
    async with FakeQga(directory.socket("qga"), replies=replies), running_api(paths) as api:
        shown = await api.get(f"{AGENT}/users")
    assert len(shown["users"]) == 256
    assert all(len(user["name"]) == 400 for user in shown["users"])


async def test_a_program_runs_where_the_job_allows_it(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    output = b"\xff" * (OUTPUT_MAX_CHARS + 1)
    programs = {"cat": FakeProgram(exit_code=3, stdout=output, stderr=b"oh")}
    async with FakeQga(directory.socket("qga"), programs=programs), running_api(paths) as api:
        shown = await api.post(f"{AGENT}/exec", {"argv": ["cat", "x"], "input": "ä"})
        assert (shown["exit_code"], shown["stderr"]) == (3, "oh")
        assert len(shown["stdout"]) == OUTPUT_MAX_CHARS
        assert shown["is_truncated"] is True
        for body in _SENSELESS:
            await api.post(f"{AGENT}/exec", body, 400)


_SENSELESS: list[dict[str, Any]] = [
    {"argv": []},
    {"argv": ["a\0b"]},
    {"argv": ["a"], "timeout_s": 1e9},
    {"argv": ["a"] * 257},
    {"argv": ["a"], "env": []},
]


async def test_no_program_runs_where_the_job_does_not_allow_it(paths: Paths) -> None:
    directory = publish(paths, make_record(paths, allow_exec=False))
    async with FakeQga(directory.socket("qga")) as guest, running_api(paths) as api:
        answer = await api.post(f"{AGENT}/exec", {"argv": ["id"]}, 409)
        assert "allow_exec" in answer["hint"]
        api.guard.acl = READER
        await api.post(f"{AGENT}/exec", {"argv": ["id"]}, 403)
        await api.get(f"{AGENT}/osinfo", 403)
    assert guest.commands == []


async def test_a_silent_guest_keeps_nobody_elses_waiting(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agentroutes, "_ASKED_AT_ONCE_MAX", 2)
    paths = Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))
    silent = publish(paths, make_record(paths))
    other = make_record(paths, vm_id=OTHER)
    well = publish(paths, other)
    replies: dict[str, object] = {"guest-get-host-name": {"host-name": "well"}}
    async with (
        FakeQga(silent.socket("qga"), silent=["guest-get-host-name"]),
        FakeQga(well.socket("qga"), replies=replies),
        running_api(paths) as api,
    ):
        asks = [asyncio.ensure_future(api.client.get(f"{AGENT}/hostname")) for _ in range(6)]
        await asyncio.sleep(0.2)
        assert not any(ask.done() for ask in asks)
        assert await api.get(f"/api/v1/vms/{OTHER}/agent/hostname") == {"host_name": "well"}
        for ask in asks:
            ask.cancel()
        await asyncio.gather(*asks, return_exceptions=True)


async def test_a_program_that_prints_more_than_a_reply_may_hold_is_an_error(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    programs = {"cat": FakeProgram(stdout=b"x" * (4 << 20))}
    async with FakeQga(directory.socket("qga"), programs=programs), running_api(paths) as api:
        answer = await api.post(f"{AGENT}/exec", {"argv": ["cat"]}, 504)
    assert "longer than" in answer["message"]


async def test_so_many_programs_run_at_once_and_no_more(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agentroutes, "_PROGRAMS_MAX", 3)
    monkeypatch.setattr(agentroutes, "_PROGRAMS_OF_A_VM_MAX", 2)
    began = asyncio.Semaphore(0)
    end = asyncio.Event()

    async def run(*_: object, **__: object) -> ExecResult:
        began.release()
        await end.wait()
        return ExecResult(exit_code=0, signal=None, stdout=b"", stderr=b"", truncated=False)

    monkeypatch.setattr(GuestAgent, "run", run)
    vm_ids = [VM_ID, VM_ID, OTHER]
    for vm_id in set(vm_ids):
        publish(paths, make_record(paths, vm_id=vm_id))
    async with running_api(paths) as api:
        body = {"argv": ["id"]}
        urls = [f"/api/v1/vms/{vm_id}/agent/exec" for vm_id in vm_ids]
        asks = [asyncio.ensure_future(api.post(urls[0], body)) for _ in range(2)]
        for _ in asks:
            await began.acquire()
        assert (await api.post(urls[0], body, 503))["error"] == "busy"
        asks.append(asyncio.ensure_future(api.post(urls[2], body)))
        await began.acquire()
        assert (await api.post(urls[2], body, 503))["error"] == "busy"
        end.set()
        await asyncio.gather(*asks)
        assert (await api.post(urls[0], body))["exit_code"] == 0
