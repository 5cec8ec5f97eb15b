import os
import time
from collections.abc import Iterator

import pytest

from qemu_node.host.process import users
from qemu_node.host.process.users import pids_of_users


def test_a_group_that_is_missing_is_no_error() -> None:
    assert users.group_id("no-such-group-here") is None
    assert users.group_id("root") == 0


def test_processes_are_found_by_the_user_they_run_as() -> None:
    uid = os.geteuid()
    assert os.getpid() in pids_of_users(range(uid, uid + 1))
    assert os.getpid() not in pids_of_users(range(uid + 1, uid + 1000))
    assert pids_of_users(range(0)) == set()


def test_a_zombie_that_its_parent_asks_for_costs_no_look_at_every_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [True, False]

    def getpriority(_which: int, _uid: int) -> int:
        if answers.pop(0):
            return 0
        raise ProcessLookupError

    monkeypatch.setattr(os, "getpriority", getpriority)
    monkeypatch.setattr(users, "processes_of_users", lambda _uids: pytest.fail("looked at all"))
    assert users.processes_of_user(320_000) == []


def test_a_process_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert os.getpid() in [process.pid for process in users.processes_of_user(os.geteuid())]


def test_who_asked_before_a_look_began_shares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def look() -> Iterator[tuple[int, int]]:
        looks.append(len(looks))
        yield len(looks), 320_000

    monkeypatch.setattr(users, "_users_of_processes", look)
    shared = users._Look()
    asked = time.monotonic()
    assert shared.users_since(asked) == [(1, 320_000)]
    # It has waited for the look of another thread meanwhile.
    assert shared.users_since(asked) == [(1, 320_000)]
    assert shared.users_since(time.monotonic()) == [(2, 320_000)]
