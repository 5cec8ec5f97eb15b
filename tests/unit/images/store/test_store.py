import os
import threading
from pathlib import Path

import msgspec
import pytest
from fakes.stored_images import KEY, put

from qemu_node.images.errors import ImageStorageError
from qemu_node.images.source.checksum import Algorithm
from qemu_node.images.store.partialfile import PartialFile
from qemu_node.images.store.store import ImageStore

V1, V2 = b"1" * 512, b"2" * 512


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


def test_earlier_version_is_known_as_long_as_its_image_is_there(store: ImageStore) -> None:
    old = put(store, content=V1)
    put(store, content=V2)
    wanted = old.checksum(Algorithm.SHA256)
    assert wanted is not None
    record = store.read_record(KEY)
    assert record is not None
    found = record.find(wanted)
    assert found is not None
    assert store.blob_path(found).read_bytes() == V1
    store.blob_path(old).unlink()
    record = store.read_record(KEY)
    assert record is not None
    assert record.find(wanted) is None


def test_earlier_version_stands_in_for_one_that_was_lost(store: ImageStore) -> None:
    old, new = put(store, content=V1), put(store, content=V2)
    store.blob_path(new).unlink()
    record = store.read_record(KEY)
    assert record is not None
    assert (record.sha256, record.earlier, record.checked_at) == (old.sha256, (), 0.0)


def test_record_of_the_form_before_is_read(store: ImageStore) -> None:
    record = put(store)
    path = store.record_path(KEY)
    fields = msgspec.json.decode(path.read_bytes())
    for name in ("earlier", "by_digest"):
        del fields[name]
    path.write_bytes(msgspec.json.encode(fields))
    assert store.read_record(KEY) == record


def test_change_of_a_record_loses_no_other_one(store: ImageStore) -> None:
    old = put(store, content=V1)
    put(store, content=V2)
    store.set_pinned(KEY, is_pinned=True)
    store.update(KEY, lambda record: record.with_version(old.sha256, by_digest=True))
    record = store.known_sources()[KEY]
    assert (record.pinned, record.earlier[0].by_digest) == (True, True)
    store.update("unknown", lambda record: record)
    assert list(store.known_sources()) == [KEY]


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


def test_pin_is_kept_by_a_new_version(store: ImageStore) -> None:
    put(store)
    store.set_pinned(KEY, is_pinned=True)
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
        store.drop(store.blobs()[0])
    assert store.blobs() == []
    assert store.known_sources() == {}


def test_drop_leaves_what_else_a_source_gave(store: ImageStore) -> None:
    old, new = put(store, content=V1), put(store, content=V2)
    [dropped] = [blob for blob in store.blobs() if blob.sha256 == new.sha256]
    with store.exclusive():
        store.drop(dropped)
        store.forget_lost()
    record = store.known_sources()[KEY]
    assert (record.sha256, record.earlier) == (old.sha256, ())
    with store.exclusive():
        store.drop(store.blobs()[0])
    assert store.known_sources() == {}


def test_partial_begins_anew_without_touching_what_had_its_name(
    store: ImageStore, tmp_path: Path
) -> None:
    path = store.partial_path(KEY)
    path.write_bytes(b"old")
    other_name = tmp_path / "other-name"
    other_name.hardlink_to(path)
    PartialFile.create(path, {Algorithm.SHA256}).write(b"new")
    assert other_name.read_bytes() == b"old"


def test_download_larger_than_the_disk_is_refused_before_it_begins(store: ImageStore) -> None:
    partial = PartialFile.create(store.partial_path(KEY), {Algorithm.SHA256})
    with pytest.raises(ImageStorageError, match="has room for") as error:
        partial.expect(1 << 62)
    partial.discard()
    assert error.value.retry
    assert not store.partial_path(KEY).exists()


def test_images_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"")
    with pytest.raises(ImageStorageError, match="images"):
        ImageStore(tmp_path / "images").prepare()
