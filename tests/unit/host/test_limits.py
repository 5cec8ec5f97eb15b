import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu_node.host import limits


@pytest.fixture
def open_files_limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_is_open_is_counted() -> None:
    before = limits.read_open_files()
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        after = limits.read_open_files()
    finally:
        os.close(fd)
    assert after.used == before.used + 1
    assert after.free == before.free - 1


def test_what_is_open_is_counted_by_an_older_kernel_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = limits.read_open_files().used
    listed = len(list(Path("/proc/self/fd").iterdir())) - 1
    assert expected == listed
    monkeypatch.setattr(limits, "_FDS", SizelessPath("/proc/self/fd"))
    assert limits.read_open_files().used == expected


class SizelessPath(type(Path())):  # type: ignore[misc]
    """A path of a directory whose size is 0."""

    def stat(self, **_: object) -> os.stat_result:
        return os.stat_result((0,) * 10)


def test_the_soft_limit_is_raised_to_the_hard_one_and_the_old_one_is_kept_for_children(
    open_files_limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_before_raise", None)
    _, hard = open_files_limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
    limits.raise_open_files_limit()
    assert limits.read_open_files().limit == hard
    assert limits.open_files_limit_before_raise() == hard - 1
    limits.raise_open_files_limit()
    assert limits.open_files_limit_before_raise() == hard - 1


def test_the_limit_of_another_process_is_read(open_files_limits: tuple[int, int]) -> None:
    assert limits.read_open_files_limit(os.getpid()) == open_files_limits[0]


def test_a_process_that_is_gone_has_no_limit() -> None:
    assert limits.read_open_files_limit(2**22 + 1) is None
