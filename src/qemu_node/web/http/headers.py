"""What every answer says to a browser, and whether it may be packed: pure.

Sources: W3C CSP 3; the page's policy was tried with noVNC and xterm.js: xterm's text is invisible
without `style-src-elem 'unsafe-inline'`, and noVNC hangs at the first JPEG without `data:`.
"""

from typing import Final

API_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of what is no page."""

PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "style-src-elem 'self' 'unsafe-inline'; style-src-attr 'none'; img-src 'self' data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Of the page: no script but ours, nothing from another host, nothing sent to one."""

SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def missing_headers(path: str, content_type: str, present: "frozenset[str]") -> dict[str, str]:
    """Return what an answer must say and does not yet.

    Args:
        path: Of the request.
        content_type: Of the answer.
        present: The names of its headers, in lower case.
    """
    wanted = dict(SECURITY_HEADERS)
    is_page = content_type == "text/html"
    wanted["Content-Security-Policy"] = PAGE_POLICY if is_page else API_POLICY
    if path.startswith(("/api/", "/oidc/")):
        wanted["Cache-Control"] = "no-store"
    return {name: value for name, value in wanted.items() if name.lower() not in present}


def takes_gzip(accept_encoding: str) -> bool:
    """Tell whether a client can unpack gzip (RFC 9110, 12.5.3): pure."""
    for part in accept_encoding.split(","):
        name, _, weight = part.partition(";")
        if name.strip().lower() == "gzip":
            return weight.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
