import msgspec
from guests.cache import REPO
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.source.checksum import Algorithm, Checksum
from qemu_node.images.store.sourcerecord import SourceRecord, Version

GOLDEN = REPO / "tests" / "data" / "images" / "source-v1.json"
SUMS, OTHER_SUMS = "a" * 32, "b" * 32
DIGESTS = [char * 64 for char in "1234"]


def record(sha256: str = "1" * 64, *, at_s: float = 1.0, served: str | None = None) -> SourceRecord:
    return SourceRecord(
        url="http://h/x",
        sha256=sha256,
        source_sha256=served,
        format=ImageFormat.RAW,
        size_bytes=512,
        virtual_size_bytes=512,
        etag=f'"{at_s}"',
        fetched_at=at_s,
        checked_at=at_s,
    )


def wanted(sha256: str) -> Checksum:
    return Checksum(Algorithm.SHA256, sha256)


def test_record_from_before_there_were_earlier_versions_is_one_of_one_version() -> None:
    found = msgspec.json.decode(GOLDEN.read_bytes(), type=SourceRecord)
    assert found.earlier == ()
    assert found.find(wanted("b" * 64)) is found
    assert found.listed_by("0123456789abcdef0123456789abcdef") is found
    assert (found.pinned, found.by_digest) == (True, False)


def test_record_reads_as_its_last_version_where_earlier_ones_are_not_known() -> None:
    new = record("2" * 64).after(record("1" * 64))
    fields = msgspec.json.decode(msgspec.json.encode(new))
    golden = msgspec.json.decode(GOLDEN.read_bytes())
    assert golden.keys() <= fields.keys()
    assert (fields["version"], fields["sha256"]) == (1, "2" * 64)


def test_what_came_before_stays_findable() -> None:
    new = record("3" * 64).after(record("2" * 64).after(record("1" * 64)))
    for digest in "123":
        found = new.find(wanted(digest * 64))
        assert found is not None
        assert found.blob_name == f"sha256-{digest * 64}.raw"
    assert new.find(wanted("4" * 64)) is None


def test_version_is_known_by_what_was_served() -> None:
    new = record("1" * 64, served="8" * 64).after(record("1" * 64, served="9" * 64))
    for served in ("8" * 64, "9" * 64):
        found = new.find(wanted(served))
        assert found is not None
        assert found.sha256 == "1" * 64
    assert new.find(wanted("1" * 64)) is None


def test_version_that_comes_again_is_known_as_before() -> None:
    first = record("1" * 64, at_s=1.0).with_version("1" * 64, by_digest=True, sha512="5" * 128)
    second = record("2" * 64, at_s=2.0).after(first)
    again = record("1" * 64, at_s=3.0).after(second.with_listed("1" * 64, SUMS, 2.5))
    assert (again.fetched_at, again.checked_at, again.etag) == (1.0, 3.0, '"3.0"')
    assert (again.by_digest, again.sha512, again.sums_key) == (True, "5" * 128, SUMS)
    assert [each.sha256 for each in again.earlier] == ["2" * 64]


def test_sums_file_lists_one_version_at_a_time() -> None:
    both = record("2" * 64).after(record("1" * 64))
    moved = both.with_listed("1" * 64, SUMS, 1.0).with_listed("2" * 64, SUMS, 2.0)
    assert moved.listed_by(SUMS) is moved
    assert [each.sums_key for each in moved.versions] == [SUMS, None]
    assert moved.with_listed("1" * 64, OTHER_SUMS, 3.0).listed_by(SUMS) is not None


def test_without_its_last_version_the_one_before_stands_in_as_an_old_answer() -> None:
    both = msgspec.structs.replace(record("2" * 64).after(record("1" * 64)), pinned=True)
    [last, before] = both.versions
    found = both.reduced_to([before])
    assert found is not None
    assert (found.sha256, found.earlier, found.pinned) == ("1" * 64, (), True)
    assert (found.etag, found.last_modified, found.checked_at) == (None, None, 0.0)
    assert both.reduced_to([last]) == msgspec.structs.replace(both, earlier=())
    assert both.reduced_to([]) is None
    assert both.reduced_to(both.versions) == both


@given(st.lists(st.tuples(st.sampled_from(DIGESTS), st.sampled_from([None, *DIGESTS]))))
def test_every_version_that_came_is_known_once(came: list[tuple[str, str | None]]) -> None:
    found: SourceRecord | None = None
    for sha256, served in came:
        found = record(sha256, served=served).after(found)
    seen = {served or sha256 for sha256, served in came}
    versions: tuple[Version, ...] = () if found is None else found.versions
    assert {each.served_sha256 for each in versions} == seen
    assert len(versions) == len(seen)
    if found is not None:
        assert msgspec.json.decode(msgspec.json.encode(found), type=SourceRecord) == found
        assert found.served_sha256 == (came[-1][1] or came[-1][0])


def test_signatures_count_for_the_version_that_was_served_with_them() -> None:
    found = (
        record().confirmed(2.0, "a").confirmed(3.0, "b").confirmed(4.0, "a").confirmed(5.0, None)
    )
    assert (found.signatures, found.checked_at) == (("a", "b"), 5.0)
    assert record("2" * 64).after(found).signatures == ()
    for n in range(1000):
        found = found.confirmed(6.0, str(n))
    assert "999" in found.signatures
    assert len(found.signatures) < 100
