import msgspec
import pytest

from qemu_node.images.download.pull import Step, plan_pull
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.source.checksum import Algorithm, Checksum
from qemu_node.images.store.sourcerecord import SourceRecord

NOW_S = 1_800_000_000.0
TTL_S = 300.0
SAME = Checksum(Algorithm.SHA256, "a" * 64)
OTHER = Checksum(Algorithm.SHA256, "b" * 64)
SAME_512 = Checksum(Algorithm.SHA512, "c" * 128)


def record(
    *, etag: str | None = None, modified: str | None = None, age_s: float = 0.0
) -> SourceRecord:
    return SourceRecord(
        url="http://h/x",
        sha256="a" * 64,
        format=ImageFormat.QCOW2,
        size_bytes=1,
        virtual_size_bytes=1,
        etag=etag,
        last_modified=modified,
        fetched_at=NOW_S - age_s,
        checked_at=NOW_S - age_s,
    )


@pytest.mark.parametrize(
    ("cached", "wanted", "step"),
    [
        (None, None, Step.DOWNLOAD),
        (None, SAME, Step.DOWNLOAD),
        (record(etag='"1"', age_s=TTL_S), None, Step.REVALIDATE),
        (record(modified="Sun, 22 Nov 2026 15:00:00 GMT", age_s=TTL_S), None, Step.REVALIDATE),
        (record(etag='"1"', age_s=TTL_S - 1), None, Step.SERVE),
        (record(etag='"1"', age_s=-1), None, Step.REVALIDATE),
        (record(etag='"1"'), SAME, Step.SERVE),
        (record(etag='"1"', age_s=1e9), SAME, Step.SERVE),
        (record(etag='"1"'), OTHER, Step.DOWNLOAD),
        (record(etag='"1"'), SAME_512, Step.DOWNLOAD),
        (record(), SAME, Step.SERVE),
        (record(age_s=TTL_S - 1), None, Step.SERVE),
        (record(age_s=TTL_S), None, Step.DOWNLOAD),
        (record(age_s=-1), None, Step.DOWNLOAD),
    ],
)
def test_plan(cached: SourceRecord | None, wanted: Checksum | None, step: Step) -> None:
    assert plan_pull(cached, wanted, NOW_S, TTL_S) is step


def test_what_a_digest_names_is_never_asked_for_again() -> None:
    old = record(etag="sha256:1", age_s=1e9)
    assert plan_pull(old, None, NOW_S, TTL_S, is_fixed=True) is Step.SERVE
    assert plan_pull(old, OTHER, NOW_S, TTL_S, is_fixed=True) is Step.DOWNLOAD
    assert plan_pull(None, None, NOW_S, TTL_S, is_fixed=True) is Step.DOWNLOAD


def test_checksum_of_a_compressed_image_is_that_of_what_was_served() -> None:
    packed = msgspec.structs.replace(record(), source_sha256="b" * 64)
    assert plan_pull(packed, OTHER, NOW_S, TTL_S) is Step.SERVE
    assert plan_pull(packed, SAME, NOW_S, TTL_S) is Step.DOWNLOAD


@pytest.mark.parametrize(
    ("cached", "wanted", "step"),
    [
        (None, None, Step.DOWNLOAD),
        (record(etag='"1"'), None, Step.REVALIDATE),
        (record(), None, Step.DOWNLOAD),
        (record(etag='"1"'), SAME, Step.REVALIDATE),
        (record(etag='"1"'), OTHER, Step.DOWNLOAD),
        (record(etag='"1"'), SAME_512, Step.DOWNLOAD),
    ],
)
def test_a_signature_that_the_source_has_not_seen_is_shown_to_it(
    cached: SourceRecord | None, wanted: Checksum | None, step: Step
) -> None:
    assert plan_pull(cached, wanted, NOW_S, TTL_S, is_proven=False) is step
