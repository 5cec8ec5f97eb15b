"""AWS Signature Version 4 of a GET: pure.

Owns the canonical request and the signature in the Authorization header. Does not own which object
is asked for where (`s3`) nor the secret's file (`credentials`).

Source: "Create a signed AWS API request", AWS Identity and Access Management User Guide, and
"Authenticating Requests: Using the Authorization Header", Amazon S3 API Reference.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""What S3 takes instead of a body's digest."""
EMPTY_PAYLOAD = hashlib.sha256(b"").hexdigest()

_ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Whose signature it is; as text it shows no secret."""

    access_key_id: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    """Of temporary credentials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a signature is good for."""

    region: str
    service: str = "s3"


def s3_headers(
    method: str, url: str, keys: Keys, place: Place, now_s: float, payload: str = UNSIGNED_PAYLOAD
) -> dict[str, str]:
    """Return the headers that sign a request of S3 for `url`, made at Unix time `now_s`.

    Headers that come on top (Range, If-None-Match) need no signature.
    """
    headers = {"x-amz-content-sha256": payload, "x-amz-date": amz_date(now_s)}
    if keys.session_token is not None:
        headers["x-amz-security-token"] = keys.session_token
    value = authorization(method, url, headers, keys, place, payload)
    return {**headers, "Authorization": value}


def authorization(
    method: str,
    url: str,
    headers: Mapping[str, str],
    keys: Keys,
    place: Place,
    payload: str = EMPTY_PAYLOAD,
) -> str:
    """Return the Authorization header that signs `headers` and Host of a request for `url`.

    `headers` hold `x-amz-date`. The path is signed as S3 wants it: encoded once, dots and double
    slashes as they are.
    """
    parts = urlsplit(url)
    signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    signed["host"] = host_header(parts)
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        [
            method,
            encode_path(parts.path) or "/",
            _canonical_query(parts.query),
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            payload,
        ]
    )
    date = signed["x-amz-date"]
    scope = f"{date[:8]}/{place.region}/{place.service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"{_ALGORITHM}\n{date}\n{scope}\n{digest}"
    key = _signing_key(keys.secret_key, date[:8], place)
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    return (
        f"{_ALGORITHM} Credential={keys.access_key_id}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )


def amz_date(now_s: float) -> str:
    """Return a Unix time as the protocol writes it, `20130524T000000Z`."""
    return datetime.fromtimestamp(now_s, tz=UTC).strftime("%Y%m%dT%H%M%SZ")


def encode_path(path: str) -> str:
    """Return `path`, encoded or not, with all encoded but letters, digits and `-_.~/`."""
    return quote(unquote_to_bytes(path), safe="/")


def host_header(parts: SplitResult) -> str:
    """Return what an HTTP client sends as Host: with the port, unless it is the scheme's own."""
    host = parts.netloc.rpartition("@")[2].lower()
    if parts.port is not None and parts.port == _DEFAULT_PORTS.get(parts.scheme):
        return host.rpartition(":")[0]
    return host


def _canonical_query(query: str) -> str:
    """Return the parameters encoded, then sorted; one without a value gets an empty one."""
    pairs = []
    for item in query.split("&") if query else []:
        name, _, value = item.partition("=")
        pairs.append((_encode(name), _encode(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _encode(text: str) -> str:
    return quote(unquote_to_bytes(text), safe="")


def _signing_key(secret_key: str, day: str, place: Place) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (day, place.region, place.service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
