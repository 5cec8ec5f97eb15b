import os
import threading
from pathlib import Path

import pytest
from fakes.stored_images import KEY, put

from qemu_node.images.checksum import Algorithm
from qemu_node.images.errors import ImageStorageError
from qemu_node.images.partial import PartialFile
from qemu_node.images.store import ImageStore


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    store = ImageStore(tmp_path / "images")
    store.prepare()
    return store


def test_placed_image_is_read_only_and_named_by_digest_and_format(store: ImageStore) -> None:
    record = put(store)
    path = store.blob_path(record)
    assert path.name == f"sha256-{record.sha256}.raw"
    assert path.stat().st_mode & 0o777 == 0o444
    assert store.read_record(KEY) == record
    assert not store.partial_path(KEY).exists()


def test_blob_names_cannot_be_listed_by_other_users(store: ImageStore) -> None:
    assert store.blob_path(put(store)).parent.stat().st_mode & 0o777 == 0o711


def test_same_bytes_from_two_sources_share_a_file_that_is_used_again(store: ImageStore) -> None:
    path = store.blob_path(put(store, "1"))
    os.utime(path, (1, 1))
    first = path.stat()
    second = store.blob_path(put(store, "2")).stat()
    assert first.st_ino == second.st_ino
    assert second.st_mtime > first.st_mtime
    assert {record.url for record in store.known_sources().values()} == {"http://h/1", "http://h/2"}


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
    assert store.known_sources() == {}


def test_record_without_its_blob_means_that_nothing_is_cached(store: ImageStore) -> None:
    store.blob_path(put(store)).unlink()
    assert store.read_record(KEY) is None


def test_pin_is_kept_by_whoever_writes_the_record_with_an_older_idea_of_it(
    store: ImageStore,
) -> None:
    record = put(store)
    store.set_pinned(KEY, is_pinned=True)
    store.write_record(KEY, record)
    assert store.known_sources()[KEY].pinned
    put(store, content=b"2" * 512)
    assert store.known_sources()[KEY].pinned
    store.set_pinned(KEY, is_pinned=False)
    assert not store.known_sources()[KEY].pinned


def test_pin_of_an_unknown_source_makes_no_record(store: ImageStore) -> None:
    store.set_pinned(KEY, is_pinned=True)
    assert store.known_sources() == {}


def test_blobs_are_told_by_name_kind_and_links(store: ImageStore, tmp_path: Path) -> None:
    record = put(store)
    (store.blobs_dir / "notes.txt").touch()
    (store.blobs_dir / f"sha256-{'0' * 64}.raw").mkdir()
    (store.blobs_dir / f"sha256-{'1' * 64}.raw").symlink_to(store.blob_path(record))
    [blob] = store.blobs()
    assert (blob.path, blob.sha256) == (store.blob_path(record), record.sha256)
    assert blob.size_bytes == 512
    assert not blob.is_linked
    (tmp_path / "base.img").hardlink_to(blob.path)
    assert store.blobs()[0].is_linked


def test_nobody_adds_an_image_while_another_removes_some(store: ImageStore) -> None:
    done = threading.Event()

    def add() -> None:
        put(store)
        done.set()

    with store.exclusive():
        thread = threading.Thread(target=add)
        thread.start()
        assert not done.wait(0.2)
        assert store.known_sources() == {}
        assert store.blobs() == []
    thread.join(timeout=60)
    assert KEY in store.known_sources()


def test_store_whose_lock_cannot_be_had_is_an_error(store: ImageStore) -> None:
    (store.root / "store.lock").mkdir()
    with pytest.raises(ImageStorageError, match=r"store\.lock"):
        store.set_pinned(KEY, is_pinned=True)


def test_drop_removes_records_and_image(store: ImageStore) -> None:
    put(store, "1")
    put(store, "2")
    with store.exclusive():
        store.drop(store.blobs()[0], ["1", "2"])
    assert store.blobs() == []
    assert store.known_sources() == {}


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
