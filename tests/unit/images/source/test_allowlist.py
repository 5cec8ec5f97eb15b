import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import ConfigError, JobError
from qemu_node.images.source.allowlist import check_allowed, parse_allowed
from qemu_node.images.source.name import PathSource, RemoteSource, parse_source


def remote(text: str) -> RemoteSource:
    source = parse_source(text)
    assert not isinstance(source, PathSource)
    return source


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ("mirror.org", "https://mirror.org/x"),
        ("Mirror.org", "http://user:pw@MIRROR.org:8080/x"),
        ("mirror.org:8080", "http://mirror.org:8080/x"),
        ("ghcr.io", "oci://ghcr.io/team/a"),
        ("*.example.org", "https://a.b.example.org/x"),
        ("[::1]", "http://[::1]:80/x"),
        ("https://mirror.org", "https://mirror.org/x"),
        ("https://mirror.org/debian/", "https://mirror.org/debian/13/x?y=1"),
        ("https://mirror.org/debian", "https://mirror.org:443/debian/x"),
        ("https://mirror.org/x.qcow2", "https://mirror.org/x.qcow2"),
        ("s3://bucket/", "s3://bucket/a/b"),
        ("s3://bucket/a", "s3://bucket/a/b"),
        ("oci://ghcr.io/team", "oci://ghcr.io/team/a:v1"),
        ("oci://ghcr.io/team/a", "oci://ghcr.io/team/a:v1"),
        ("oci://ghcr.io/team/a", f"oci://ghcr.io/team/a@sha256:{'a' * 64}"),
    ],
)
def test_an_entry_allows_what_is_there(entry: str, source: str) -> None:
    check_allowed(remote(source), [parse_allowed("elsewhere"), parse_allowed(entry)], "image")


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ("mirror.org", "https://mirror.org.evil.com/x"),
        ("mirror.org", "https://evil.com/mirror.org"),
        ("mirror.org", "https://mirror.org@evil.com/x"),
        ("mirror.org:8080", "http://mirror.org/x"),
        ("*.example.org", "https://example.org/x"),
        ("*.example.org", "https://evilexample.org/x"),
        ("https://mirror.org/", "http://mirror.org/x"),
        ("https://mirror.org/", "https://mirror.org:8443/x"),
        ("https://mirror.org/debian", "https://mirror.org/debian-evil/x"),
        ("https://mirror.org/debian/", "https://mirror.org/debian/../secret/x"),
        ("https://mirror.org/debian/", "https://mirror.org/debian/%2e%2E/secret/x"),
        ("https://mirror.org/debian/", "https://mirror.org/debian/..%2fsecret/x"),
        ("bucket", "s3://bucket/x"),
        ("s3://bucket/", "s3://bucket-2/x"),
        ("s3://bucket/a", "s3://bucket/ab"),
        ("oci://ghcr.io/team", "oci://ghcr.io/team-2/a"),
        ("oci://ghcr.io/team", "https://ghcr.io/team/a"),
    ],
)
def test_an_entry_allows_nothing_else(entry: str, source: str) -> None:
    with pytest.raises(JobError, match="not among the sources") as refused:
        check_allowed(remote(source), [parse_allowed(entry)], "image")
    assert entry in refused.value.explain()
    assert "pw" not in refused.value.explain()


def test_without_entries_everything_is_allowed() -> None:
    check_allowed(remote("http://anywhere/x"), [], "image")


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.", "ftp://h/", "https://", "https://*.h/", "https://u:p@h/", "a b", "h/path",
     "https://h/a/../b", "https://h/?x"],
)  # fmt: skip
def test_an_entry_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"images\.sources"):
        parse_allowed(text)


@given(st.text(max_size=40))
def test_any_text_is_an_entry_or_refused(text: str) -> None:
    try:
        entry = parse_allowed(text)
    except ConfigError:
        return
    assert not entry.covers(remote("https://elsewhere.test/x")) or "elsewhere.test" in text.lower()
