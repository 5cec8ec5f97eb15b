import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import JobError
from qemu_node.images.http.url import redact
from qemu_node.images.source.name import OciSource, PathSource, S3Source, UrlSource, parse_source

SECRET = "hunter2"
DIGEST = f"sha256:{'a' * 64}"


def url(text: str) -> UrlSource:
    source = parse_source(text)
    assert isinstance(source, UrlSource)
    return source


@pytest.mark.parametrize(
    ("text", "host", "file_name"),
    [
        ("https://example.org/debian-13.qcow2", "example.org", "debian-13.qcow2"),
        ("http://Example.org:8080/a/b%20c.raw?x=1#top", "example.org:8080", "b c.raw"),
        ("HTTPS://[::1]/x", "[::1]", "x"),
        ("http://example.org", "example.org", ""),
        ("http://example.org/gr%C3%BCn.img", "example.org", "grün.img"),
        ("http://example.org/gr%FCn.img", "example.org", "grün.img"),
        ("https://user:pw@example.org:1/x", "example.org:1", "x"),
    ],
)
def test_http_url_is_a_source_with_a_host_and_a_file_name(
    text: str, host: str, file_name: str
) -> None:
    assert (url(text).host, url(text).file_name) == (host, file_name)


@pytest.mark.parametrize("text", ["image.qcow2", "local/a b.raw", "/srv/images/x", "a:b.qcow2"])
def test_anything_without_a_scheme_is_a_path(text: str) -> None:
    assert parse_source(text) == PathSource(text)


@pytest.mark.parametrize(
    ("text", "bucket", "object_key"),
    [
        ("s3://my.bucket/debian.qcow2", "my.bucket", "debian.qcow2"),
        ("S3://bucket/a/b%20c?d#e.raw", "bucket", "a/b%20c?d#e.raw"),
    ],
)
def test_an_object_of_a_bucket_is_taken_as_it_is_written(
    text: str, bucket: str, object_key: str
) -> None:
    source = parse_source(text)
    assert source == S3Source(bucket, object_key)
    assert (source.host, str(source)) == (f"s3://{bucket}", f"s3://{bucket}/{object_key}")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("oci://ghcr.io/team/debian", OciSource("ghcr.io", "team/debian", "latest")),
        ("oci://Registry:5000/a:v1.2", OciSource("registry:5000", "a", "v1.2")),
        (f"oci://ghcr.io/a-b/c__d@{DIGEST}", OciSource("ghcr.io", "a-b/c__d", DIGEST)),
        (f"oci://ghcr.io/a:tag@{DIGEST}", OciSource("ghcr.io", "a", DIGEST)),
        ("oci://[::1]:5000/a", OciSource("[::1]:5000", "a", "latest")),
    ],
)
def test_an_image_of_a_registry_has_a_tag_or_a_digest(text: str, source: OciSource) -> None:
    assert parse_source(text) == source
    assert parse_source(str(source)) == source
    assert source.is_digest == (DIGEST in text)


@pytest.mark.parametrize("text", ["ftp://h/x", "file:///etc/shadow", "nbd://h/x", "s3a://b/k"])
def test_other_scheme_is_refused_naming_what_is_supported(text: str) -> None:
    with pytest.raises(JobError, match="not supported") as error:
        parse_source(text)
    assert "https, http, s3, oci" in error.value.explain()


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "a\0b", "../x", "local/../../x", "/srv/../etc/shadow",
        "http://", "http:///x", "http://host:99999/x", "http://host:port/x", "http://host:0/x",
        "http://[::1/x", "https://host/a b", "https://host/a\nb", "https://host/\x00",
        "s3://", "s3://bucket", "s3://bucket/", "s3://bucket/dir/", "s3:///key", "s3://a/key",
        "s3://Bucket/key", "s3://user:pw@bucket/key", "s3://bucket/../other/key", "s3://bucket/./k",
        "s3://bucket/a\nb", f"s3://bucket/{'k' * 1025}",
        "oci://", "oci://registry", "oci://registry/", "oci:///a", "oci://registry/A",
        "oci://registry/a:", "oci://registry/a:-", "oci://registry/a@", "oci://registry/a@sha256:1",
        "oci://user:pw@registry/a", "oci://registry:0/a", "oci://registry:65536/a",
        "oci://registry:x/a", "oci://registry/a/../b", "oci://registry/a?x", "oci://-x/a",
        f"oci://registry/{'a' * 256}", f"oci://registry/a:{'t' * 129}", "oci://registry/a//b",
    ],
)  # fmt: skip
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(JobError):
        parse_source(text)


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{SECRET}@example.org/x.qcow2",
        f"https://{SECRET}@example.org/x.qcow2",
        f"https://example.org/x.qcow2?X-Amz-Signature={SECRET}",
        f"https://example.org/x.qcow2#{SECRET}",
        f"https://a@b:{SECRET}@example.org/x.qcow2",
    ],
)
def test_secrets_of_a_url_are_not_shown(text: str) -> None:
    source = url(text)
    assert SECRET not in f"{source} {source!r} {source.shown} {source.key()} {source.host}"
    assert "example.org/x.qcow2" in str(source)


@pytest.mark.parametrize(
    "text",
    [
        f"ftp://user:{SECRET}@host/x",
        f"http://user:{SECRET}@host:port/x",
        f"http://user:{SECRET}@host/a b",
        f"http://user:{SECRET}@[::1/x",
        f"http://user:{SECRET}@:80/x",
        f"s3://key:{SECRET}@bucket/x",
        f"oci://user:{SECRET}@registry/x",
        f"oci://registry/x?{SECRET}",
    ],
)
def test_secrets_are_not_shown_in_the_refusal_of_a_source(text: str) -> None:
    with pytest.raises(JobError) as error:
        parse_source(text)
    assert SECRET not in error.value.explain()


def test_credentials_are_part_of_the_key() -> None:
    keys = {
        url(text).key()
        for text in ("http://h/x", "http://a:1@h/x", "http://a:2@h/x", "http://h/x?token=1")
    }
    assert len(keys) == 4
    for source in (url("http://h/x"), S3Source("bucket", "k"), OciSource("r", "a", "latest")):
        assert len({source.key(), source.key("team a"), source.key("team b")}) == 3


def test_fragment_is_not_part_of_the_key() -> None:
    assert url("http://h/x#a").key() == url("http://h/x").key()


def test_same_file_name_on_two_paths_has_two_keys() -> None:
    assert url("http://h/1/windows.qcow2").key() != url("http://h/2/windows.qcow2").key()


@given(st.text())
def test_any_text_can_be_redacted(text: str) -> None:
    assert f":{SECRET}@" not in redact(f"http://user:{SECRET}@host/{text}")


@given(st.sampled_from(["", "http://", "https://", "s3://", "oci://"]), st.text())
def test_any_text_is_a_source_or_refused_and_shown_it_means_the_same(
    scheme: str, text: str
) -> None:
    try:
        source = parse_source(scheme + text)
    except JobError:
        return
    if isinstance(source, S3Source | OciSource):
        assert parse_source(str(source)) == source
    if not isinstance(source, PathSource):
        assert len(source.key()) == 32
        assert source.file_name is not None
