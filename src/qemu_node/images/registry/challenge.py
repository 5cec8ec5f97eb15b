"""How a registry asks for credentials: the WWW-Authenticate header. Pure.

Owns the grammar (RFC 9110, 11.6.1). Does not own the answer (`oci`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_MAX_CHARS = 8192
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SEPARATOR = re.compile(r"[ \t,]*")
_PARAMETER = re.compile(
    rf'(?P<name>{_TOKEN})[ \t]*=[ \t]*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>{_TOKEN}))'
    r"[ \t]*(?=,|$)"
)
_SCHEME = re.compile(rf"(?P<scheme>{_TOKEN})(?=[ \t,]|$)")
# What Negotiate and NTLM send instead of parameters.
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to log in."""

    scheme: str
    """In lower case."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name; of several of one name the first."""


def parse_challenges(value: str) -> list[Challenge]:
    """Return the challenges in `value`, in order, up to the first error."""
    found: list[Challenge] = []
    if len(value) > _MAX_CHARS:
        return found
    parameters: dict[str, str] = {}
    at = _after(_SEPARATOR, value, 0)
    while at < len(value):
        parameter = _PARAMETER.match(value, at) if found else None
        if parameter is not None:
            text = parameter["plain"]
            if text is None:
                text = re.sub(r"\\(.)", r"\1", parameter["quoted"])
            parameters.setdefault(parameter["name"].lower(), text)
            at = _after(_SEPARATOR, value, parameter.end())
            continue
        scheme = _SCHEME.match(value, at)
        if scheme is None:
            break
        parameters = {}
        found.append(Challenge(scheme["scheme"].lower(), parameters))
        at = _after(_SEPARATOR, value, _after(_TOKEN68, value, scheme.end()))
    return found


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()
