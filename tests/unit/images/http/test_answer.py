import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.images.http.answer import (
    ContentRange,
    Validators,
    bucket_region,
    parse_content_range,
    parse_retry_after,
    recoded_by,
    validators_of,
)
from qemu_node.images.http.transfer import Resume, problem_of_part

NOW_S = 1_800_000_000.0


@pytest.mark.parametrize(
    ("value", "first", "last", "total"),
    [
        ("bytes 0-9/10", 0, 9, 10),
        ("bytes 5-9/10", 5, 9, 10),
        ("Bytes 5-9/*", 5, 9, None),
        ("bytes */10", None, None, 10),
    ],
)
def test_content_range_is_read(
    value: str, first: int | None, last: int | None, total: int | None
) -> None:
    assert parse_content_range(value) == ContentRange(first=first, last=last, total=total)


@pytest.mark.parametrize(
    "value",
    [None, "", "bytes", "bytes 9-5/10", "bytes 0-10/10", "bytes */*", "bytes -5/10", "0-9/10",
     "bytes 0-9", "items 0-9/10", f"bytes 0-{'9' * 20}/*", "bytes \u0660-\u0669/\u0661"],
)  # fmt: skip
def test_content_range_that_makes_no_sense_is_none(value: str | None) -> None:
    assert parse_content_range(value) is None


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.none() | st.integers(0, 10**12))
def test_content_range_is_inside_its_file(first: int, last: int, total: int | None) -> None:
    part = parse_content_range(f"bytes {first}-{last}/{'*' if total is None else total}")
    if part is None:
        assert first > last or (total is not None and last >= total)
    else:
        assert (part.first, part.last, part.total) == (first, last, total)


@given(st.text())
def test_any_header_can_be_read(text: str) -> None:
    parse_content_range(text)
    parse_content_range(f"bytes {text}")
    parse_retry_after(text, NOW_S)
    validators = validators_of({"ETag": text, "Last-Modified": text})
    for value in (validators.etag, validators.last_modified):
        assert value is None or ("\r" not in value and "\n" not in value and len(value) <= 1024)


@pytest.mark.parametrize(
    ("etag", "is_strong"),
    [('"1"', True), ('""', True), ('W/"1"', False), ("1", False), ('"a"b"', False), (None, False)],
)
def test_only_a_strong_etag_makes_parts_of_one_file(etag: str | None, is_strong: bool) -> None:
    assert (Validators(etag=etag).strong_etag is not None) == is_strong


@pytest.mark.parametrize(
    ("value", "after_s"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("9" * 10, None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, after_s: float | None) -> None:
    assert parse_retry_after(value, NOW_S) == after_s


@pytest.mark.parametrize(
    ("part", "etag", "is_good"),
    [
        (ContentRange(first=5, last=9, total=10), '"1"', True),
        (ContentRange(first=5, last=9, total=None), '"1"', True),
        (ContentRange(first=5, last=7, total=10), '"1"', True),
        (None, '"1"', False),
        (ContentRange(first=4, last=9, total=10), '"1"', False),
        (ContentRange(first=None, last=None, total=10), '"1"', False),
        (ContentRange(first=5, last=10, total=11), '"1"', False),
        (ContentRange(first=5, last=9, total=10), '"2"', False),
        (ContentRange(first=5, last=9, total=10), None, False),
    ],
)
def test_part_continues_only_what_it_is_a_part_of(
    part: ContentRange | None, etag: str | None, is_good: bool
) -> None:
    resume = Resume(offset_bytes=5, etag='"1"', total_bytes=10)
    assert (problem_of_part(part, Validators(etag=etag), resume) is None) == is_good


@pytest.mark.parametrize(
    "coding",
    ["", " ", "identity", "Identity", "none", "binary", "utf-8", "UTF8", "aws-chunked", "8bit",
     "aws-chunked, identity", "null", ","],
)  # fmt: skip
def test_what_is_no_content_coding_changes_nothing(coding: str) -> None:
    assert recoded_by(coding, "", ["/disk.img"]) is None


@pytest.mark.parametrize(
    ("coding", "head"),
    [
        ("gzip", b"\x1f\x8b"),
        ("X-GZIP", b"\x1f\x8b"),
        ("aws-chunked,gzip", b"\x1f\x8b"),
        ("zstd", b"\x28\xb5\x2f\xfd"),
        ("compress", b"\x1f\x9d"),
        ("br", b""),
        ("deflate", b""),
        ("gzip, br", b""),
    ],
)
def test_a_content_coding_means_other_bytes_if_they_begin_so(coding: str, head: bytes) -> None:
    names = ["/disk.img", "/x.gz/disk"]
    assert recoded_by(coding, "application/octet-stream", names) == head


@pytest.mark.parametrize(
    ("coding", "media_type", "name"),
    [
        ("x-gzip", "", "/disk.img.gz"),
        ("gzip", "", "/disk.IMG.GZ"),
        ("aws-chunked,gzip", "", "/disk.img.gz"),
        ("gzip", "application/x-gzip; charset=binary", "/latest"),
        ("zstd", "", "/disk.img.zst"),
        ("br", "", "/disk.img.br"),
    ],
)
def test_a_label_of_a_compressed_file_is_no_coding_of_the_body(
    coding: str, media_type: str, name: str
) -> None:
    assert recoded_by(coding, media_type, ["/latest", name]) is None


@pytest.mark.parametrize(("coding", "name"), [("gzip, gzip", "/a.gz"), ("br", "/a.gz")])
def test_a_coding_beyond_the_label_is_one(coding: str, name: str) -> None:
    assert recoded_by(coding, "", [name]) is not None


@pytest.mark.parametrize(
    ("headers", "body", "region"),
    [
        ({"x-amz-bucket-region": "eu-central-1"}, b"", "eu-central-1"),
        ({}, b"<Error><Region>us-west-2</Region></Error>", "us-west-2"),
        ({}, b"<Endpoint>b.s3-eu-west-1.amazonaws.com</Endpoint>", "eu-west-1"),
        ({}, b"<Endpoint>b.s3.amazonaws.com</Endpoint>", None),
        ({"x-amz-bucket-region": 'x" evil'}, b"<Region>\x1b[2J</Region>", None),
        ({}, b"", None),
    ],
)
def test_a_buckets_region_is_in_a_header_or_the_document(
    headers: dict[str, str], body: bytes, region: str | None
) -> None:
    assert bucket_region(headers, body) == region
