import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu_node.host import openfiles


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_is_open_is_counted() -> None:
    before = openfiles.read_own()
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        after = openfiles.read_own()
    finally:
        os.close(fd)
    assert after.used == before.used + 1
    assert after.free == before.free - 1


def test_what_is_open_is_counted_by_an_older_kernel_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = openfiles.read_own().used
    listed = len(list(Path("/proc/self/fd").iterdir())) - 1
    assert expected == listed
    monkeypatch.setattr(openfiles, "_FDS", SizelessPath("/proc/self/fd"))
    assert openfiles.read_own().used == expected


class SizelessPath(type(Path())):  # type: ignore[misc]
    """A path of a directory whose size is 0."""

    def stat(self, **_: object) -> os.stat_result:
        return os.stat_result((0,) * 10)


def test_the_soft_limit_is_raised_to_the_hard_one_and_the_old_one_is_kept_for_children(
    limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openfiles, "_before_raise", None)
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
    openfiles.raise_limit()
    assert openfiles.read_own().limit == hard
    assert openfiles.limit_before_raise() == hard - 1
    openfiles.raise_limit()
    assert openfiles.limit_before_raise() == hard - 1


def test_the_limit_of_another_process_is_read(limits: tuple[int, int]) -> None:
    assert openfiles.read_limit(os.getpid()) == limits[0]


def test_a_process_that_is_gone_has_no_limit() -> None:
    assert openfiles.read_limit(2**22 + 1) is None
