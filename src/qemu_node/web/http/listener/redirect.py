"""What a request in plain http is answered on a port of https: pure.

Owns that nothing of it looks successful but a person's first visit: GET and HEAD are sent on to
https, with a checked host and path, so that the answer leads nowhere else. A token that came in
clear is refused, for whoever sent it must learn that. Sources: RFC 9110 15.4.9 (308), RFC 9112 2.2.
"""

import re
from collections.abc import Callable

HEAD_MAX_BYTES = 8192
"""What is read of a request at most."""

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_REQUEST = re.compile(r"(?P<method>[A-Z]{1,16}) (?P<path>\S+) HTTP/1\.[01]")
# What a path and a query may hold (RFC 3986 3.3, 3.4). No backslash, no control character.
_PATH = re.compile(r"/[A-Za-z0-9/?:@!$&'()*+,;=._~%-]{0,2000}")
_CREDENTIALS = ("authorization", "cookie", "x-nomad-token")
_TYPE = "text/plain; charset=utf-8"


def is_complete(head: bytes) -> bool:
    """Tell whether all headers are there, or more than anybody needs."""
    return len(head) >= HEAD_MAX_BYTES or _END_OF_HEAD.search(head) is not None


def answer(head: bytes, *, is_own_host: Callable[[str], bool]) -> bytes:
    """Return the whole answer to a request.

    Args:
        head: Its beginning, up to the end of its headers.
        is_own_host: Whether the value of `Host` names this node.
    """
    target = _target(head, is_own_host)
    if target is None:
        return _response("403 Forbidden", "This port speaks https only.\n", "", is_head=False)
    is_head = head.startswith(b"HEAD ")
    return _response(
        "308 Permanent Redirect", f"{target}\n", f"Location: {target}\r\n", is_head=is_head
    )


def _target(head: bytes, is_own_host: Callable[[str], bool]) -> str | None:
    """Return where a request is sent on to; None if it is refused."""
    end = _END_OF_HEAD.search(head)
    if end is None or end.start() > HEAD_MAX_BYTES:
        return None
    try:
        lines = head[: end.start()].decode("ascii").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        return None
    request = _REQUEST.fullmatch(lines[0])
    if request is None or request["method"] not in ("GET", "HEAD"):
        return None
    hosts = []
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name.lower() in _CREDENTIALS:
            return None
        if name.lower() == "host":
            hosts.append(value.strip(" \t"))
    if len(hosts) != 1 or not is_own_host(hosts[0]) or not _PATH.fullmatch(request["path"]):
        return None
    return f"https://{hosts[0]}{request['path']}"


def _response(status: str, text: str, headers: str, *, is_head: bool) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\n{headers}Content-Type: {_TYPE}\r\nContent-Length: {len(text)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return (head + ("" if is_head else text)).encode("ascii")
