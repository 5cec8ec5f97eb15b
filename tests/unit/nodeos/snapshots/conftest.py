import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest
from fakes.nodeos import Cutter

from qemu_node.host.files import atomic
from qemu_node.nodeos.snapshots import grubenv

P = ParamSpec("P")
T = TypeVar("T")


@pytest.fixture(autouse=True)
def nothing_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


@pytest.fixture
def cut_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Cutter]:
    """Return what cuts the power before the n-th change that our code makes of a file."""
    cutter = Cutter(0)

    def stepping(function: Callable[P, T]) -> Callable[P, T]:
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            cutter.step()
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(atomic, "write_all", stepping(atomic.write_all))
    monkeypatch.setattr(grubenv, "write_all", stepping(atomic.write_all))
    for name in ("replace", "symlink_to"):
        monkeypatch.setattr(Path, name, stepping(getattr(Path, name)))
    monkeypatch.setattr(shutil, "rmtree", stepping(shutil.rmtree))

    def cut(at: int) -> Cutter:
        cutter.restart(at)
        return cutter

    return cut
