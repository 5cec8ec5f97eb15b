"""What an answer says to a browser."""

import pytest

from qemu_node.web.http.headers import API_POLICY, PAGE_POLICY, missing_headers, takes_gzip


def test_a_page_gets_the_policy_of_pages_and_all_else_the_strict_one() -> None:
    page = missing_headers("/", "text/html", frozenset())
    assert page["Content-Security-Policy"] == PAGE_POLICY
    assert "Cache-Control" not in page
    answer = missing_headers("/api/v1/vms", "application/json", frozenset())
    assert answer["Content-Security-Policy"] == API_POLICY
    assert answer["Cache-Control"] == "no-store"


def test_what_a_handler_says_stays() -> None:
    present = frozenset({"cache-control", "content-security-policy"})
    found = missing_headers("/api/v1/vms/x/thumbnail", "image/jpeg", present)
    assert not {"Cache-Control", "Content-Security-Policy"} & found.keys()


def test_no_policy_lets_a_script_in_the_page_run_or_a_frame_have_it() -> None:
    for policy in (API_POLICY, PAGE_POLICY):
        directives = dict(part.split(" ", 1) for part in policy.split("; "))
        assert directives["default-src"] == "'none'"
        assert directives.get("script-src", "'none'") in ("'self'", "'none'")
        assert directives["frame-ancestors"] == "'none'"
        assert "eval" not in policy
        assert "*" not in policy
        assert "http" not in policy


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("x-gzip-not", False),
    ],
)
def test_gzip_is_for_those_who_can_unpack_it(header: str, takes: bool) -> None:
    assert takes_gzip(header) is takes
