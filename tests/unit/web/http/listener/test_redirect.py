import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.web.http.listener.redirect import HEAD_MAX_BYTES, answer, is_complete

OWN = "node1:5800"


def ask(head: str | bytes) -> bytes:
    data = head if isinstance(head, bytes) else head.encode()
    return answer(data, is_own_host=lambda host: host == OWN)


def get(path: str, host: str = OWN, more: str = "") -> bytes:
    return ask(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")


@pytest.mark.parametrize("path", ["/", "/vms/web-1?tab=serial", "/api/v1/vms", "//elsewhere/"])
def test_a_visit_is_sent_on_to_https(path: str) -> None:
    said = get(path)
    assert said.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n")
    assert f"\r\nLocation: https://{OWN}{path}\r\n".encode() in said
    assert b"\r\nConnection: close\r\n" in said


def test_head_gets_no_body() -> None:
    said = ask(f"HEAD / HTTP/1.1\r\nHost: {OWN}\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 308")
    assert said.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        f"POST /api/v1/login HTTP/1.1\r\nHost: {OWN}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: node1:5800@evil.example\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {OWN}\r\nHost: evil.example\r\n\r\n",
        f"GET https://evil.example/ HTTP/1.1\r\nHost: {OWN}\r\n\r\n",
        f"GET /\\evil HTTP/1.1\r\nHost: {OWN}\r\n\r\n",
        f"GET /a\rSet-Cookie:x HTTP/1.1\r\nHost: {OWN}\r\n\r\n",
        f"GET /{'a' * 3000} HTTP/1.1\r\nHost: {OWN}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {OWN}\r\nX-Nomad-Token: s\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {OWN}\r\nAuthorization: Bearer s\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {OWN}\r\nCookie: a=b\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        f"GET /ä HTTP/1.1\r\nHost: {OWN}\r\n\r\n",
        "",
    ],
)
def test_everything_else_is_refused(head: str) -> None:
    said = ask(head)
    assert said.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"Location" not in said
    assert b"evil" not in said


@given(st.binary(max_size=300), st.sampled_from([b"", b"GET / HTTP/1.1\r\nHost: node1:5800\r\n"]))
def test_an_answer_never_leads_elsewhere(data: bytes, begin: bytes) -> None:
    said = ask(begin + data)
    head, _, _ = said.partition(b"\r\n\r\n")
    assert said.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 308 "))
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"location:"):
            assert line.startswith(b"Location: https://node1:5800/")


def test_no_more_is_read_than_needed() -> None:
    assert not is_complete(b"GET / HTTP/1.1\r\nHost: a\r\n")
    assert is_complete(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert is_complete(b"a" * HEAD_MAX_BYTES)
