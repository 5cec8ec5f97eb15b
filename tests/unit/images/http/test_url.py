import pytest
import yarl
from fakes.hostile_urls import hostile_urls
from hypothesis import example, given

from qemu_node.images.http.url import HttpUrl, UrlError, is_loopback, parse_url

BASE = parse_url("https://example.org/a/b?q=1")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h", HttpUrl("http", "h", None, "/")),
        ("HTTPS://Ex.ORG:8443/a%2fb?x=%20#f", HttpUrl("https", "ex.org", 8443, "/a%2fb?x=%20")),
        ("http://h:/x", HttpUrl("http", "h", None, "/x")),
        ("http://h?x", HttpUrl("http", "h", None, "/?x")),
        ("http://u:p@w@h/", HttpUrl("http", "h", None, "/", "u:p@w")),
        ("http://[FD00::1]:80/", HttpUrl("http", "[fd00::1]", 80, "/")),
        ("http://a_b.example.org./", HttpUrl("http", "a_b.example.org.", None, "/")),
        ("http://bücher.example/ä", HttpUrl("http", "xn--bcher-kva.example", None, "/%C3%A4")),
        ("http://h/a\\b", HttpUrl("http", "h", None, "/a\\b")),
    ],
)
def test_url_has_its_parts(text: str, url: HttpUrl) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"http://{'a' * 70}/", "DNS can hold"),
        (f"http://{'a.' * 130}/", "DNS can hold"),
        ("http://a..b/", "DNS can hold"),
        ("http://a\\b/", "DNS can hold"),
        ("http://good.example\\@evil.example:x/", "host or port"),
        ("http://%41/", "DNS can hold"),
        ("http://[::1].x/", "host or port"),
        ("http://[::g]/", "not an IPv6 address"),
        ("http://[fe80::1%eth0]/", "not an IPv6 address"),
        ("http://h\udce9/", "control character"),
        ("http://\u2100.example/", "its host is not a name"),
        ("http://2130706433/", "a number"),
        ("http://127.1/", "a number"),
        ("http://0x7f.0.0.0x1/", "a number"),
        ("http://127.0.0.1./", "a number"),
        ("http://h:0/", "port is wrong"),
        ("http://h:65536/", "port is wrong"),
        ("http://h:999999/", "host or port"),
        ("http://", "no host"),
        ("http://u:p@/x", "no host"),
        ("ftp://h/", "not an http"),
        ("http://h/a b", "a space"),
        ("http://h/a\tb", "a control character"),
    ],
)
def test_text_that_is_no_url_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UrlError, match=reason):
        parse_url(text)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("c", "https://example.org/a/c"),
        ("/c?d", "https://example.org/c?d"),
        ("../c", "https://example.org/c"),
        ("//h/c", "https://h/c"),
        ("http://u:p@h:1/%2e?sig=a%2Fb", "http://h:1/%2e?sig=a%2Fb"),
        ("?z", "https://example.org/a/b?z"),
        ("/my images/disk 1.img", "https://example.org/my%20images/disk%201.img"),
        (" /c ", "https://example.org/c"),
        ("/grün.img?a=ü", "https://example.org/gr%C3%BCn.img?a=%C3%BC"),
        ("/gr\udcfcn.img", "https://example.org/gr%FCn.img"),
        ('/"<>^`{|}\\', "https://example.org/%22%3C%3E%5E%60%7B%7C%7D%5C"),
        ("/100%.img?b=%2F%zz", "https://example.org/100%25.img?b=%2F%25zz"),
        ("http://bücher.example/ü", "http://xn--bcher-kva.example/%C3%BC"),
        ("/a\tb", "https://example.org/a%09b"),
        ("c d#e f", "https://example.org/a/c%20d"),
    ],
)
def test_redirect_is_resolved_against_where_it_came_from(location: str, target: str) -> None:
    assert str(BASE.join(location)) == target


@pytest.mark.parametrize("location", ["http://a b/", "//a\tb/", "http://a\\b/x", "/\ud800"])
def test_redirect_to_no_host_is_refused(location: str) -> None:
    with pytest.raises(UrlError):
        BASE.join(location)


@given(hostile_urls)
@example(f"http://{'a' * 63}.{'b' * 63}/")
@example("http://a?")
@example("http://a:80")
def test_any_text_is_no_url_or_one_that_every_library_can_handle(text: str) -> None:
    for parse in (parse_url, BASE.join):
        try:
            url = parse(text)
        except UrlError:
            continue
        # What aiohttp and the resolver do with it, and what a password's origin depends on.
        taken = yarl.URL(str(url), encoded=True)
        assert (taken.scheme, taken.raw_path_qs) == (url.scheme, url.target)
        assert taken.raw_host == url.host.strip("[]")
        assert taken.port == url.origin[2]
        assert len(url.host.encode("idna")) == len(url.host)
        again = parse_url(str(url))
        assert (again.origin, again.target) == (url.origin, url.target)


@given(hostile_urls)
def test_an_origin_never_holds_a_login(text: str) -> None:
    try:
        url = parse_url(text)
    except UrlError:
        return
    assert "@" not in url.host_port
    assert url.login is None or url.login in text


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
        ("10.0.0.1", False), ("localhost.example.org", False), ("127.0.0.1.nip.io", False),
        ("[::1]", True), ("", False), ("localhost.", True),
    ],
)  # fmt: skip
def test_only_names_and_numbers_of_this_machine_are_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
