"""What every unit test lives under: nothing of the host is started."""

import os
import subprocess  # noqa: TID251 - to forbid it
from typing import NoReturn

import pytest


class ProcessStartedInUnitTestError(BaseException):
    """A unit test started a process.

    A BaseException, so that no `except Exception` of the code under test turns it into an ordinary
    failure.
    """


@pytest.fixture(autouse=True)
def no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **_: object) -> NoReturn:
        raise ProcessStartedInUnitTestError(f"a unit test tried to start {args[:2]!r}")

    # `Popen` itself stays a class: code may name it in annotations and isinstance().
    monkeypatch.setattr(subprocess.Popen, "_execute_child", refuse)
    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"):
        monkeypatch.setattr(os, name, refuse)
