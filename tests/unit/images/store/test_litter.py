import os
from pathlib import Path

import msgspec
import pytest
from fakes.stored_images import KEY, put

from qemu_node.host.process.identity import boot_id
from qemu_node.images.store.litter import RESUMABLE_S, clean
from qemu_node.images.store.partialfile import PartialInfo, info_path
from qemu_node.images.store.store import ImageStore

NOW_S = 1_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    store = ImageStore(tmp_path / "images")
    store.prepare()
    return store


def leave(path: Path, *, age_s: float = 60.0) -> Path:
    path.write_bytes(b"half")
    os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return path


def describe(store: ImageStore, *, etag: str | None = '"1"', boot: str | None = None) -> Path:
    """Leave the description of a download."""
    path = info_path(store.partials_dir / KEY)
    info = PartialInfo(url="x", etag=etag, total_bytes=None, boot_id=boot or boot_id())
    path.write_bytes(msgspec.json.encode(info))
    return path


def left(store: ImageStore) -> set[str]:
    return {path.name for path in store.partials_dir.iterdir()}


def test_partials_of_a_download_that_runs_are_let_be(store: ImageStore) -> None:
    for name in (KEY, f"{KEY}.json", f"{KEY}.unpacked", "dead"):
        leave(store.partials_dir / name, age_s=10 * RESUMABLE_S)
    with store.lock(KEY):
        assert clean(store, NOW_S) == 1
    assert left(store) == {KEY, f"{KEY}.json", f"{KEY}.unpacked"}


def test_broken_download_waits_a_day_to_be_resumed(store: ImageStore) -> None:
    description = describe(store)
    partial = leave(store.partials_dir / KEY, age_s=RESUMABLE_S - 1)
    leave(store.partials_dir / f"{KEY}.unpacked")
    assert clean(store, NOW_S) == 1
    assert left(store) == {partial.name, description.name}
    leave(partial, age_s=RESUMABLE_S + 1)
    assert clean(store, NOW_S) == 2
    assert left(store) == set()


@pytest.mark.parametrize("how", [{"etag": None}, {"boot": "another one"}])
def test_broken_download_that_nobody_can_go_on_with_goes(
    store: ImageStore, how: dict[str, str | None]
) -> None:
    describe(store, **how)
    leave(store.partials_dir / KEY)
    assert clean(store, NOW_S) == 2


@pytest.mark.parametrize("name", [KEY, f"{KEY}.json", f"{KEY}.unpacked", f"{KEY}.what"])
def test_part_that_is_of_no_use_alone_goes(store: ImageStore, name: str) -> None:
    leave(store.partials_dir / name)
    assert clean(store, NOW_S) == 1
    assert left(store) == set()


def test_clock_that_was_set_back_lets_no_download_wait_for_years(store: ImageStore) -> None:
    describe(store)
    leave(store.partials_dir / KEY, age_s=-1000 * RESUMABLE_S)
    assert clean(store, NOW_S) == 2


def test_locks_go_with_their_sources(store: ImageStore) -> None:
    for key in (KEY, "gone"):
        with store.lock(key):
            pass
    put(store)
    assert clean(store, NOW_S) == 0
    assert store.lock(KEY).path.exists()
    assert not store.lock("gone").path.exists()


def test_temporary_file_goes_unless_it_may_be_somebody_s(store: ImageStore) -> None:
    leave(store.partials_dir / ".tmp-0123", age_s=7200)
    leave(store.partials_dir / ".tmp-4567")
    leave(store.sources_dir / ".tmp-89ab")
    assert clean(store, NOW_S) == 2
    assert left(store) == {".tmp-4567"}


def test_strays_and_damaged_records_go_and_images_stay(store: ImageStore, tmp_path: Path) -> None:
    put(store)
    outside = leave(tmp_path / "outside")
    leave(store.blobs_dir / "debian.qcow2")
    (store.blobs_dir / "directory").mkdir()
    leave(store.blobs_dir / "directory" / "file")
    (store.blobs_dir / "link").symlink_to(outside)
    leave(store.sources_dir / "damaged.json")
    leave(store.partials_dir / ("y" * 255))
    assert clean(store, NOW_S) == 5
    assert outside.exists()
    assert len(store.blobs()) == 1
    assert set(store.known_sources()) == {KEY}
