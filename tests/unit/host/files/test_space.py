import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import HostError
from qemu_node.host.files import space as diskspace
from qemu_node.host.files.space import DiskSpace, read_space, require_free
from qemu_node.units import GIB, Share, parse_share

HALF_FULL = DiskSpace(free_bytes=50 * GIB, total_bytes=100 * GIB)


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diskspace, "read_space", lambda _path: HALF_FULL)


@pytest.mark.usefixtures("space")
@pytest.mark.parametrize(
    ("wanted", "reserve"),
    [(0, "5%"), (0, "50%"), (45 * GIB, "5%"), (50 * GIB, "0"), (0, "50G")],
)
def test_what_leaves_the_reserve_untouched_is_allowed(wanted: int, reserve: str) -> None:
    require_free(Path("/data"), wanted, parse_share(reserve))


@pytest.mark.usefixtures("space")
@pytest.mark.parametrize(
    ("wanted", "reserve"),
    [(0, "51%"), (46 * GIB, "5%"), (50 * GIB + 1, "0"), (0, "1T")],
)
def test_what_would_take_of_the_reserve_is_refused_as_recoverable(
    wanted: int, reserve: str
) -> None:
    with pytest.raises(HostError, match=r"50\.0 GiB are free") as refused:
        require_free(Path("/data"), wanted, parse_share(reserve))
    assert refused.value.retry
    assert "disk.reserve" in (refused.value.hint or "")


def test_room_is_made_before_anything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free_bytes = 50 * GIB
    asked: list[int] = []

    def read(_path: Path) -> DiskSpace:
        return DiskSpace(free_bytes=free_bytes, total_bytes=100 * GIB)

    def make(needed_bytes: int) -> None:
        nonlocal free_bytes
        asked.append(needed_bytes)
        free_bytes = needed_bytes

    monkeypatch.setattr(diskspace, "read_space", read)
    require_free(Path("/data"), 40 * GIB, parse_share("10%"), make)
    assert asked == []
    require_free(Path("/data"), 50 * GIB, parse_share("10%"), make)
    assert asked == [60 * GIB]


@pytest.mark.usefixtures("space")
def test_room_that_cannot_be_made_hides_no_full_disk() -> None:
    def fail(_needed_bytes: int) -> None:
        raise HostError("disk on fire")

    with pytest.raises(HostError, match="reserve"):
        require_free(Path("/data"), 51 * GIB, parse_share("5%"), fail)


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.floats(0, 100))
def test_a_disk_with_nothing_on_it_has_room_for_what_is_not_reserved(
    total: int, wanted: int, pct: float
) -> None:
    reserve = Share(pct=pct)
    empty = DiskSpace(free_bytes=total, total_bytes=total)
    assert empty.has_room(0, reserve)
    assert empty.has_room(wanted, reserve) == (wanted + reserve.of(total) <= total)


def test_a_directory_that_is_still_to_be_made_is_judged_by_where_it_will_be(
    tmp_path: Path,
) -> None:
    there = read_space(tmp_path)
    assert 0 < there.free_bytes <= there.total_bytes
    assert read_space(tmp_path / "not" / "yet").total_bytes == there.total_bytes


def test_a_path_that_cannot_be_looked_at_is_the_hosts_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> os.statvfs_result:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "statvfs", refuse)
    with pytest.raises(HostError, match="free space"):
        read_space(tmp_path)
