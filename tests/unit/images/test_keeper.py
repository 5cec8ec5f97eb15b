import os
import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.stored_images import KEY, put

from qemu_node.config.images import ImagesConfig
from qemu_node.errors import ConfigError, ImageError, MissingPartError
from qemu_node.images.errors import ImageStorageError, UnsafeImageError
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.format.qemuimg import check_image
from qemu_node.images.keeper import CheckImage, ImageKeeper
from qemu_node.images.source.checksum import Algorithm
from qemu_node.images.source.name import UrlSource, parse_source
from qemu_node.images.store.blob import Blob, link_base
from qemu_node.images.store.eviction import RECENT_S, Reason
from qemu_node.images.store.partialfile import PartialFile, info_path, write_info
from qemu_node.images.store.sourcerecord import SourceRecord
from qemu_node.images.store.store import ImageStore
from qemu_node.units import Share

NOW_S = float(int(time.time()))
WEEK_S = 7 * 86400.0
V1, V2 = b"1" * 4096, b"2" * 4096
URL = "http://h/x"

StatVfs = namedtuple("StatVfs", "f_blocks f_bavail f_frsize")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    store = ImageStore(tmp_path / "images")
    store.prepare()
    return store


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set how many of 100 blocks are free, whatever the machine's disk says; all at first."""

    def free(blocks: int) -> None:
        monkeypatch.setattr(os, "statvfs", lambda _path: StatVfs(100, blocks, 4096))

    free(100)
    return free


def keeper(
    store: ImageStore,
    *,
    now_s: float = NOW_S,
    prefetch: tuple[str, ...] = (),
    check: CheckImage = check_image,
    reserve: Share = Share(),  # noqa: B008 - frozen
) -> ImageKeeper:
    return ImageKeeper(
        store.root,
        store.root.parent / "vm",
        ImagesConfig(prefetch=prefetch),
        check=check,
        reserve=reserve,
        clock=lambda: now_s,
    )


def use(store: ImageStore, record: SourceRecord, age_s: float) -> None:
    """Make the last use of an image so long ago."""
    os.utime(store.blob_path(record), (NOW_S - age_s, NOW_S - age_s))


def start(store: ImageStore, record: SourceRecord, vm_id: str = "web-0123456789ab") -> Path:
    """Make a VM's directory with its base, as a start does."""
    base = store.root.parent / "vm" / vm_id / "base.img"
    base.parent.mkdir(parents=True)
    fd = os.open(store.blob_path(record), os.O_RDONLY)
    link_base(store.blob_path(record), fd, base)
    os.close(fd)
    return base


def key_of(url: str) -> str:
    source = parse_source(url)
    assert isinstance(source, UrlSource)
    return source.key()


def swept(keeper: ImageKeeper) -> list[tuple[str, Reason]]:
    return [(removed.image.blob.sha256, removed.reason) for removed in keeper.sweep()]


def test_image_is_shown_with_sources_and_vms(store: ImageStore) -> None:
    record = put(store, "1")
    put(store, key_of(URL), url=URL)
    start(store, record)
    [image] = keeper(store, prefetch=(URL,)).images()
    assert image.origins == ("http://h/1", URL)
    assert image.users == ("web-0123456789ab",)
    assert image.is_in_use
    assert image.is_prefetched
    assert not image.is_pinned
    assert not image.is_outdated


def test_cache_that_was_never_used_is_empty(tmp_path: Path) -> None:
    unused = ImageKeeper(tmp_path / "no", tmp_path, ImagesConfig())
    assert (unused.images(), unused.plan()) == ([], [])
    unused.make_room(1 << 60)
    assert not (tmp_path / "no").exists()


def test_republished_image_goes_with_its_last_vm(store: ImageStore) -> None:
    old = put(store, content=V1)
    base = start(store, old)
    new = put(store, content=V2)
    outdated = keeper(store).images()[-1]
    assert (outdated.blob.sha256, outdated.is_outdated) == (old.sha256, True)
    assert swept(keeper(store)) == []
    assert base.read_bytes() == V1
    shutil.rmtree(base.parent)
    assert swept(keeper(store)) == [(old.sha256, Reason.OUTDATED)]
    assert [blob.sha256 for blob in store.blobs()] == [new.sha256]


def test_image_goes_once_unused_for_a_week_and_is_forgotten(store: ImageStore) -> None:
    record = put(store)
    use(store, record, WEEK_S - 1)
    assert swept(keeper(store)) == []
    assert swept(keeper(store, now_s=NOW_S + 1)) == [(record.sha256, Reason.UNUSED)]
    assert store.known_sources() == {}
    assert store.blobs() == []


def test_time_unused_begins_when_the_last_vm_is_gone(store: ImageStore) -> None:
    record = put(store)
    base = start(store, record)
    use(store, record, 10 * WEEK_S)
    assert swept(keeper(store)) == []
    shutil.rmtree(base.parent)
    assert swept(keeper(store, now_s=NOW_S + WEEK_S - 1)) == []
    assert swept(keeper(store, now_s=NOW_S + WEEK_S)) == [(record.sha256, Reason.UNUSED)]


def test_last_use_in_the_future_is_taken_for_now(store: ImageStore) -> None:
    record = put(store)
    use(store, record, -100 * WEEK_S)
    assert swept(keeper(store)) == []
    assert swept(keeper(store, now_s=NOW_S + WEEK_S)) == [(record.sha256, Reason.UNUSED)]


def test_short_space_takes_the_least_recently_used(
    store: ImageStore, roomy: Callable[[int], None]
) -> None:
    records = [put(store, str(n), bytes([n]) * 4096) for n in (1, 2, 3)]
    for age_s, record in zip((3000, 2000, 1000), records, strict=True):
        use(store, record, age_s)
    roomy(9)
    removed = swept(keeper(store))
    assert removed[0] == (records[0].sha256, Reason.SPACE)
    assert len(store.blobs()) == 3 - len(removed)


def test_space_is_short_below_the_reserve_whatever_the_low_mark_is(
    store: ImageStore, roomy: Callable[[int], None]
) -> None:
    record = put(store)
    use(store, record, RECENT_S)
    roomy(39)
    assert swept(keeper(store)) == []
    assert swept(keeper(store, reserve=Share(pct=40.0))) == [(record.sha256, Reason.SPACE)]


def part(store: ImageStore, key: str, blocks: int, *, age_s: float) -> Path:
    """Leave a download as one that broke off does."""
    partial = PartialFile.create(store.partial_path(key), {Algorithm.SHA256})
    write_info(store.partial_path(key), url="http://h/x", etag='"1"', total_bytes=None)
    partial.write(b"p" * 4096 * blocks)
    partial.keep()
    path = store.partial_path(key)
    os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return path


def test_room_for_a_download_is_made_of_what_nobody_uses(
    store: ImageStore, roomy: Callable[[int], None]
) -> None:
    records = [put(store, str(n), bytes([n]) * 4096) for n in (1, 2, 3)]
    for age_s, record in zip((3000, 2000, 1000), records, strict=True):
        use(store, record, age_s)
    start(store, records[1])
    broken, under_way = part(store, "4", 1, age_s=2500), part(store, "5", 1, age_s=9000)
    roomy(10)
    with store.lock("5").hold_blocking(1.0):
        keeper(store).make_room(10 * 4096)
        assert len(store.blobs()) == 3
        keeper(store).make_room(99 * 4096)
        assert len(store.blobs()) == 3
        keeper(store).make_room(12 * 4096)
    assert [blob.sha256 for blob in store.blobs()] == sorted(r.sha256 for r in records[1:])
    assert (broken.exists(), under_way.exists()) == (False, True)
    assert not info_path(broken).exists()


def test_short_space_takes_downloads_that_wait_to_be_resumed(
    store: ImageStore, roomy: Callable[[int], None]
) -> None:
    old, recent = part(store, "1", 30, age_s=RECENT_S), part(store, "2", 30, age_s=RECENT_S - 1)
    roomy(9)
    assert swept(keeper(store)) == []
    assert (old.exists(), recent.exists()) == (False, True)


def test_everything_includes_downloads_that_wait_to_be_resumed(store: ImageStore) -> None:
    waiting = part(store, "1", 1, age_s=0)
    assert keeper(store).sweep() == []
    assert waiting.exists()
    keeper(store).sweep(everything=True)
    assert not waiting.exists()


@pytest.mark.parametrize("how", ["pinned", "prefetched"])
def test_what_is_kept_stays_for_ever_and_its_old_version_does_not(
    store: ImageStore, how: str
) -> None:
    old = put(store, key_of(URL), V1, url=URL)
    prefetch = (URL,) if how == "prefetched" else ()
    if how == "pinned":
        keeper(store).pin(keeper(store).images()[0], is_pinned=True)
    new = put(store, key_of(URL), V2, url=URL)
    use(store, new, 1000 * WEEK_S)
    assert swept(keeper(store, prefetch=prefetch)) == [(old.sha256, Reason.OUTDATED)]
    if how == "pinned":
        keeper(store).pin(keeper(store).images()[0], is_pinned=False)
    assert swept(keeper(store)) == [(new.sha256, Reason.UNUSED)]


def test_image_that_a_job_had_with_a_password_is_not_the_prefetched_one(store: ImageStore) -> None:
    url = "https://x:y@h/disk.raw"
    record = put(store, key_of(url), url="https://h/disk.raw")
    use(store, record, 2 * WEEK_S)
    kept = keeper(store, prefetch=("https://h/disk.raw",))
    assert not kept.images()[0].is_prefetched
    assert swept(kept) == [(record.sha256, Reason.UNUSED)]


@pytest.mark.parametrize("how", ["digest", "sums"])
def test_earlier_version_that_a_checksum_names_stays_until_it_is_unused(
    store: ImageStore, how: str
) -> None:
    old = put(store, content=V1)
    if how == "digest":
        store.update(KEY, lambda record: record.with_version(old.sha256, by_digest=True))
    else:
        store.update(KEY, lambda record: record.with_listed(old.sha256, "s" * 32, NOW_S))
    put(store, content=V2)
    assert swept(keeper(store)) == []
    [_, earlier] = keeper(store).images()
    assert (earlier.blob.sha256, earlier.label) == (old.sha256, old.url)
    assert (earlier.is_outdated, earlier.origins) == (False, ())
    with pytest.raises(ImageError, match="its source serves another"):
        keeper(store).pin(earlier, is_pinned=True)
    use(store, old, WEEK_S)
    assert swept(keeper(store)) == [(old.sha256, Reason.UNUSED)]
    assert store.known_sources()[KEY].earlier == ()


def test_outdated_image_cannot_be_pinned(store: ImageStore) -> None:
    start(store, put(store, content=V1))
    put(store, content=V2)
    with pytest.raises(ImageError, match="outdated"):
        keeper(store).pin(keeper(store).images()[-1], is_pinned=True)


def test_pin_survives_the_loss_of_its_image(store: ImageStore) -> None:
    record = put(store)
    keeper(store).pin(keeper(store).images()[0], is_pinned=True)
    store.blob_path(record).unlink()
    assert swept(keeper(store)) == []
    put(store)
    assert keeper(store).images()[0].is_pinned


@pytest.mark.parametrize("damage", ["no image", "short image", "torn record"])
def test_damaged_image_is_forgotten(store: ImageStore, damage: str) -> None:
    record = put(store)
    match damage:
        case "no image":
            store.blob_path(record).unlink()
        case "short image":
            store.blob_path(record).chmod(0o644)
            store.blob_path(record).write_bytes(b"short")
        case _:
            store.record_path(KEY).write_bytes(b'{"version":1,')
    keeper(store).sweep()
    assert store.blobs() == []
    assert list(store.sources_dir.iterdir()) == []


def test_image_in_use_is_removed_by_force_only_and_its_vm_keeps_it(store: ImageStore) -> None:
    base = start(store, put(store, content=V1))
    [image] = keeper(store).images()
    with pytest.raises(ImageError, match="web-0123456789ab"):
        keeper(store).remove(image, force=False)
    keeper(store).remove(image, force=True)
    assert store.blobs() == []
    assert base.read_bytes() == V1


@pytest.mark.parametrize("how", ["pinned", "prefetch"])
def test_kept_image_is_not_removed_without_force(store: ImageStore, how: str) -> None:
    put(store, key_of(URL), url=URL)
    store.set_pinned(key_of(URL), is_pinned=how == "pinned")
    kept = keeper(store, prefetch=(URL,) if how == "prefetch" else ())
    with pytest.raises(ImageError, match=how):
        kept.remove(kept.images()[0], force=False)
    kept.remove(kept.images()[0], force=True)
    assert store.blobs() == []
    assert store.known_sources() == {}


def test_image_that_somebody_else_removed_is_not_there(store: ImageStore) -> None:
    put(store)
    [image] = keeper(store).images()
    keeper(store).remove(image, force=False)
    with pytest.raises(ImageError, match="not in the cache any more"):
        keeper(store).remove(image, force=False)


def test_everything_means_what_nobody_uses_or_keeps(store: ImageStore) -> None:
    start(store, put(store, "used", V1))
    put(store, "pinned", V2)
    store.set_pinned("pinned", is_pinned=True)
    idle = put(store, "idle", b"3" * 512)
    planned = keeper(store).plan(everything=True)
    assert [one.image.blob.sha256 for one in planned] == [idle.sha256]
    assert len(store.blobs()) == 3
    assert keeper(store).sweep(everything=True) == planned
    assert len(store.blobs()) == 2


def test_image_that_cannot_be_removed_does_not_keep_the_others(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = put(store, "1", V1), put(store, "2", V2)
    drop = ImageStore.drop

    def fail_once(self: ImageStore, blob: Blob) -> None:
        if blob.sha256 == stuck.sha256:
            raise ImageStorageError("disk on fire")
        drop(self, blob)

    monkeypatch.setattr(ImageStore, "drop", fail_once)
    removed = keeper(store).sweep(everything=True)
    assert [one.image.blob.sha256 for one in removed] == [other.sha256]
    assert [blob.sha256 for blob in store.blobs()] == [stuck.sha256]


async def test_verify_finds_changed_bytes(store: ImageStore) -> None:
    path = store.blob_path(put(store))
    [image] = keeper(store).images()
    assert await keeper(store).verify(image) is None
    path.chmod(0o644)
    path.write_bytes(b"y" * 512)
    problem = await keeper(store).verify(image)
    assert problem is not None
    assert "content has changed" in problem


async def test_verify_asks_for_the_structure_too(store: ImageStore) -> None:
    put(store)
    [image] = keeper(store).images()
    asked = []

    async def refuse(path: Path, image_format: ImageFormat) -> None:
        asked.append((path, image_format))
        raise UnsafeImageError("it is corrupt")

    async def lack(_path: Path, _format: ImageFormat) -> None:
        raise MissingPartError("no qemu-img")

    assert await keeper(store, check=refuse).verify(image) == "it is corrupt"
    assert asked == [(image.blob.path, ImageFormat.RAW)]
    with pytest.raises(MissingPartError):
        await keeper(store, check=lack).verify(image)


@pytest.mark.parametrize("source", ["", "local/disk.qcow2", "ftp://h/x", "https://"])
def test_prefetch_of_what_cannot_be_fetched_is_a_setting_s_error(
    store: ImageStore, source: str
) -> None:
    with pytest.raises(ConfigError, match=r"images\.prefetch"):
        keeper(store, prefetch=(source,))
