from pathlib import Path

import pytest

from qemu_node.images.checksum import Algorithm
from qemu_node.images.errors import ImageStorageError
from qemu_node.images.imagefile import ImageFormat
from qemu_node.images.partial import PartialFile
from qemu_node.images.store import ImageStore, SourceRecord

KEY = "0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    store = ImageStore(tmp_path / "images")
    store.prepare()
    return store


def put(store: ImageStore, key: str = KEY, content: bytes = b"x" * 512) -> SourceRecord:
    partial = PartialFile(store.partial_path(key), {Algorithm.SHA256})
    partial.write(content)
    record = SourceRecord(
        url=f"http://h/{key}",
        sha256=partial.checksum(Algorithm.SHA256).digest,
        format=ImageFormat.RAW,
        size_bytes=partial.size_bytes,
        virtual_size_bytes=partial.size_bytes,
        fetched_at=1.0,
        checked_at=1.0,
    )
    store.place(key, partial, record)
    partial.discard()
    return record


def test_placed_image_is_read_only_and_named_by_digest_and_format(store: ImageStore) -> None:
    record = put(store)
    path = store.blob_path(record)
    assert path.name == f"sha256-{record.sha256}.raw"
    assert path.stat().st_mode & 0o777 == 0o444
    assert store.read_record(KEY) == record
    assert not store.partial_path(KEY).exists()


def test_blob_names_cannot_be_listed_by_other_users(store: ImageStore) -> None:
    assert store.blob_path(put(store)).parent.stat().st_mode & 0o777 == 0o711


def test_same_bytes_from_two_sources_share_a_file_that_is_not_touched(store: ImageStore) -> None:
    first = store.blob_path(put(store, "1")).stat()
    second = store.blob_path(put(store, "2")).stat()
    assert (first.st_ino, first.st_mtime_ns) == (second.st_ino, second.st_mtime_ns)
    assert [str(record.url) for record, _ in store.records()] == ["http://h/1", "http://h/2"]


def test_new_version_goes_beside_the_old(store: ImageStore) -> None:
    old, new = put(store, content=b"1" * 512), put(store, content=b"2" * 512)
    assert store.blob_path(old).read_bytes() == b"1" * 512
    assert store.read_record(KEY) == new


def test_damaged_blob_is_not_believed_and_is_replaced(store: ImageStore) -> None:
    record = put(store)
    path = store.blob_path(record)
    path.chmod(0o644)
    path.write_bytes(b"short")
    assert store.read_record(KEY) is None
    put(store)
    assert path.read_bytes() == b"x" * 512


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version":1}', b'{"version":9}', b"\xff"])
def test_unreadable_record_means_that_nothing_is_cached(store: ImageStore, content: bytes) -> None:
    record = put(store)
    (store.blob_path(record).parent.parent / "sources" / f"{KEY}.json").write_bytes(content)
    assert store.read_record(KEY) is None
    assert list(store.records()) == []


def test_record_without_its_blob_means_that_nothing_is_cached(store: ImageStore) -> None:
    store.blob_path(put(store)).unlink()
    assert store.read_record(KEY) is None


def test_clean_removes_dead_partials_and_keeps_live_ones(store: ImageStore) -> None:
    for key in ("dead", "live"):
        store.partial_path(key).write_bytes(b"half")
    with store.lock("live"):
        assert store.clean() == 1
    assert not store.partial_path("dead").exists()
    assert store.partial_path("live").exists()


def test_clean_keeps_images_and_removes_locks_without_a_source(store: ImageStore) -> None:
    record = put(store)
    for key in (KEY, "never-fetched"):
        with store.lock(key):
            pass
    assert store.clean() == 0
    assert store.read_record(KEY) == record
    assert store.lock(KEY).path.exists()
    assert not store.lock("never-fetched").path.exists()


def test_partial_begins_anew_without_touching_what_had_its_name(
    store: ImageStore, tmp_path: Path
) -> None:
    path = store.partial_path(KEY)
    path.write_bytes(b"old")
    other_name = tmp_path / "other-name"
    other_name.hardlink_to(path)
    PartialFile(path, {Algorithm.SHA256}).write(b"new")
    assert other_name.read_bytes() == b"old"


def test_download_larger_than_the_disk_is_refused_before_it_begins(store: ImageStore) -> None:
    partial = PartialFile(store.partial_path(KEY), {Algorithm.SHA256})
    with pytest.raises(ImageStorageError, match="has room for") as error:
        partial.expect(1 << 62)
    partial.discard()
    assert error.value.retry
    assert not store.partial_path(KEY).exists()


def test_images_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"")
    with pytest.raises(ImageStorageError, match="images"):
        ImageStore(tmp_path / "images").prepare()
