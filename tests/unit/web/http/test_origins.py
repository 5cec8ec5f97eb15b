"""Whose page it was, in all the ways in which addresses are written, also by attackers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import ConfigError
from qemu_node.web.http.origins import (
    Scheme,
    is_cross_site,
    is_loopback,
    is_own_host,
    is_own_page,
    parse_allowed,
    parse_host,
    parse_origin,
)

OWN: list[tuple[str, str, Scheme]] = [
    ("https://x:5800", "x:5800", "https"),
    ("https://x", "x", "https"),
    ("https://x", "x:443", "https"),
    ("https://x:443", "x", "https"),
    ("http://x", "x:80", "http"),
    ("https://X.Example", "x.example", "https"),
    ("https://x.example", "x.example.", "https"),
    ("https://[::1]:5800", "[::1]:5800", "https"),
    ("https://[::1]", "[0:0:0:0:0:0:0:1]:443", "https"),
    ("https://[2001:DB8::1]", "[2001:db8:0::1]", "https"),
    ("http://127.0.0.1:40001", "127.0.0.1:40001", "http"),
    ("https://xn--bcher-kva.example", "xn--bcher-kva.example", "https"),
]
FOREIGN: list[tuple[str, str, Scheme]] = [
    ("https://y:5800", "x:5800", "https"),
    ("https://x:5801", "x:5800", "https"),
    ("https://x", "x:5800", "https"),
    ("http://x", "x", "https"),
    ("http://x:443", "x:443", "https"),
    ("null", "x", "https"),
    ("", "x", "https"),
    ("file://", "x", "https"),
    ("https://x.evil.example", "x", "https"),
    ("https://evil.example/x", "x", "https"),
    ("https://evil.example#x", "x", "https"),
    ("https://x@evil.example", "x", "https"),
    ("https://x:pass@x", "x", "https"),
    ("https://x:5800:1", "x:5800", "https"),
    ("https://x:", "x", "https"),
    ("https://x:0", "x:0", "https"),
    ("https://x:+443", "x", "https"),
    ("https://x:443\n", "x", "https"),
    ("https://x:4\u06643", "x", "https"),
    ("https://x:99999", "x:99999", "https"),
    ("https://[::1", "[::1", "https"),
    ("https://[fe80::1%eth0]", "[fe80::1%eth0]", "https"),
    ("https://[x]", "[x]", "https"),
    ("https://::1", "::1", "https"),
    ("https://x y", "x y", "https"),
    ("https://x https://y", "x", "https"),
    ("https://x, https://x", "x", "https"),
    ("https://127.1", "127.1", "https"),
    ("https://0x7f000001", "127.0.0.1", "https"),
    ("https://\u1e8b", "\u1e8b", "https"),
    ("ws://x", "x", "http"),
    ("HTTPS://x", "x", "https"),
    ("https://*", "*", "https"),
]


@pytest.mark.parametrize(("origin", "host", "scheme"), OWN)
def test_the_own_page_is_known_however_it_is_written(
    origin: str, host: str, scheme: Scheme
) -> None:
    assert is_own_page(origin, host, scheme)


@pytest.mark.parametrize(("origin", "host", "scheme"), FOREIGN)
def test_the_page_of_another_is_not_ours(origin: str, host: str, scheme: Scheme) -> None:
    assert not is_own_page(origin, host, scheme)


def test_a_proxy_is_ours_only_if_it_is_allowed() -> None:
    allowed = parse_allowed(["https://Console.Example:8443/"])
    for host in ("x:5800", "console.example", "127.0.0.1:5800"):
        assert is_own_page("https://console.example:8443", host, "http", allowed=allowed)
        assert not is_own_page("https://console.example:8444", host, "http", allowed=allowed)
        assert not is_own_page("http://console.example:8443", host, "http", allowed=allowed)


@pytest.mark.parametrize("text", ["console.example", "https://x/path", "https://*", "null", ""])
def test_what_is_no_origin_is_not_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed_origins"):
        parse_allowed([text])


NAMES = frozenset({"node1", "node1.example.com"})


@pytest.mark.parametrize(
    "host",
    [
        "node1",
        "NODE1:5800",
        "node1.example.com.:5800",
        "10.0.0.7:5800",
        "[fd00::7]",
        "localhost:5800",
        "a.localhost",
    ],
)
def test_the_node_is_known_by_its_names_and_any_address(host: str) -> None:
    assert is_own_host(host, "https", names=NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "node1.evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example:5800",
        "",
        "node1 evil.example",
        "node1/evil",
        "[node1]",
        "127.1",
    ],
)
def test_a_name_that_others_made_lead_here_is_not_the_nodes(host: str) -> None:
    assert not is_own_host(host, "https", names=NAMES)


@pytest.mark.parametrize(
    ("value", "is_foreign"),
    [
        (None, False),
        ("same-origin", False),
        ("none", False),
        ("same-site", True),
        ("cross-site", True),
        ("", True),
        ("Same-Origin", True),
    ],
)
def test_only_the_page_itself_or_a_person_is_not_cross_site(
    value: str | None, is_foreign: bool
) -> None:
    assert is_cross_site(value) is is_foreign


@pytest.mark.parametrize(
    ("address", "is_here"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("", False),
        ("/run/x.sock", False),
    ],
)
def test_loopback_is_known_in_both_families(address: str, is_here: bool) -> None:
    assert is_loopback(address) is is_here


@given(origin=st.text(max_size=40), host=st.text(max_size=40))
def test_what_cannot_be_read_is_never_the_own_page(origin: str, host: str) -> None:
    if is_own_page(origin, host, "https"):
        assert parse_origin(origin) is not None
        assert parse_host(host, "https") is not None


@given(st.text("htps:/[]@x.:0123456789%-", max_size=24).map(lambda text: f"https://{text}"))
def test_an_origin_reads_back_as_itself(text: str) -> None:
    origin = parse_origin(text)
    if origin is not None:
        assert parse_origin(str(origin)) == origin
