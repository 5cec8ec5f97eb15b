import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import JobError
from qemu_node.images.source import PathSource, UrlSource, parse_source, redact

SECRET = "hunter2"


def url(text: str) -> UrlSource:
    source = parse_source(text)
    assert isinstance(source, UrlSource)
    return source


@pytest.mark.parametrize(
    ("text", "file_name"),
    [
        ("https://example.org/debian-13.qcow2", "debian-13.qcow2"),
        ("http://example.org:8080/a/b%20c.raw?x=1#top", "b c.raw"),
        ("HTTPS://[::1]/x", "x"),
        ("http://example.org", ""),
    ],
)
def test_http_url_is_a_source_with_a_file_name(text: str, file_name: str) -> None:
    assert url(text).file_name == file_name


@pytest.mark.parametrize("text", ["image.qcow2", "local/a b.raw", "/srv/images/x", "a:b.qcow2"])
def test_anything_without_a_scheme_is_a_path(text: str) -> None:
    assert parse_source(text) == PathSource(text)


@pytest.mark.parametrize(
    "text",
    ["ftp://h/x", "file:///etc/shadow", "s3://bucket/key", "oci://registry/image", "nbd://h/x"],
)
def test_other_scheme_is_refused_naming_what_is_supported(text: str) -> None:
    with pytest.raises(JobError, match="not supported") as error:
        parse_source(text)
    assert "https, http" in error.value.explain()


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "a\0b", "../x", "local/../../x", "/srv/../etc/shadow",
        "http://", "http:///x", "http://host:99999/x", "http://host:port/x", "http://host:0/x",
        "http://[::1/x", "https://host/a b", "https://host/a\nb", "https://host/\x00",
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
    assert SECRET not in f"{source} {source!r} {source.shown} {source.key}"
    assert "example.org/x.qcow2" in str(source)


@pytest.mark.parametrize(
    "text",
    [
        f"ftp://user:{SECRET}@host/x",
        f"http://user:{SECRET}@host:port/x",
        f"http://user:{SECRET}@host/a b",
        f"http://user:{SECRET}@[::1/x",
        f"http://user:{SECRET}@:80/x",
    ],
)
def test_secrets_are_not_shown_in_the_refusal_of_a_url(text: str) -> None:
    with pytest.raises(JobError) as error:
        parse_source(text)
    assert SECRET not in error.value.explain()


def test_credentials_are_part_of_the_key() -> None:
    keys = {
        url(text).key
        for text in ("http://h/x", "http://a:1@h/x", "http://a:2@h/x", "http://h/x?token=1")
    }
    assert len(keys) == 4


def test_fragment_is_not_part_of_the_key() -> None:
    assert url("http://h/x#a").key == url("http://h/x").key


def test_same_file_name_on_two_paths_has_two_keys() -> None:
    assert url("http://h/1/windows.qcow2").key != url("http://h/2/windows.qcow2").key


@given(st.text())
def test_any_text_can_be_redacted(text: str) -> None:
    assert f":{SECRET}@" not in redact(f"http://user:{SECRET}@host/{text}")
