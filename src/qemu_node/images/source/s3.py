"""An object of an S3 bucket as a file behind http(s), with its signature (AWS SigV4). Pure.

Owns where a bucket is, the canonical request and the signature in the Authorization header. Does
not own whose keys sign nor the secret's file (`credentials`).

Source: "Create a signed AWS API request", AWS Identity and Access Management User Guide, and
"Authenticating Requests: Using the Authorization Header", Amazon S3 API Reference.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

from qemu_node.images.http.httpfile import HttpFile
from qemu_node.images.http.url import DEFAULT_PORTS
from qemu_node.images.source.credentials import Credential, S3Access, S3Keys
from qemu_node.images.source.name import S3Source

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""What S3 takes instead of a body's digest."""
EMPTY_PAYLOAD = hashlib.sha256(b"").hexdigest()

_ALGORITHM = "AWS4-HMAC-SHA256"
_GLOBAL_ENDPOINT = "s3.amazonaws.com"


def s3_file(
    source: S3Source, credential: Credential | None, *, clock: Callable[[], float] = time.time
) -> HttpFile:
    """Return how the object `source` is asked for; without keys it is asked for unsigned."""
    access = None if credential is None else credential.s3
    url = object_url(source, access)
    if access is None or access.secret_key is None:
        return HttpFile(url=url, shown=source.shown)

    def sign(method: str, url: str) -> Mapping[str, str]:
        keys = access.keys()
        assert keys is not None
        return s3_headers(method, url, keys, SigningScope(region=access.region), clock())

    return HttpFile(url=url, shown=source.shown, sign=sign)


def object_url(source: S3Source, access: S3Access | None) -> str:
    """Return the object's URL, its key encoded as the signature wants it.

    At Amazon the bucket is part of the host's name; one with a dot is not, because the certificate
    is for one label. An endpoint of the operator's has the bucket in the path, as all servers
    understand.
    """
    key = quote(source.object_key, safe="/")
    if access is not None and access.endpoint:
        return f"{access.endpoint}/{source.bucket}/{key}"
    # The endpoint without a region leads to buckets of every region that need no signature.
    host = _GLOBAL_ENDPOINT if access is None else f"s3.{access.region}.amazonaws.com"
    if "." in source.bucket:
        return f"https://{host}/{source.bucket}/{key}"
    return f"https://{source.bucket}.{host}/{key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningScope:
    """The region and service for which a signature is valid."""

    region: str
    service: str = "s3"


def s3_headers(
    method: str,
    url: str,
    keys: S3Keys,
    scope: SigningScope,
    now_s: float,
    payload: str = UNSIGNED_PAYLOAD,
) -> dict[str, str]:
    """Return the headers that sign a request of S3 for `url`, made at Unix time `now_s`.

    Headers that come on top (Range, If-None-Match) need no signature.
    """
    headers = {"x-amz-content-sha256": payload, "x-amz-date": amz_date(now_s)}
    if keys.session_token is not None:
        headers["x-amz-security-token"] = keys.session_token
    value = authorization(method, url, headers, keys, scope, payload)
    return {**headers, "Authorization": value}


def authorization(
    method: str,
    url: str,
    headers: Mapping[str, str],
    keys: S3Keys,
    scope: SigningScope,
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
    granted = f"{date[:8]}/{scope.region}/{scope.service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"{_ALGORITHM}\n{date}\n{granted}\n{digest}"
    key = _signing_key(keys.secret_key, date[:8], scope)
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    return (
        f"{_ALGORITHM} Credential={keys.access_key_id}/{granted}, "
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
    if parts.port is not None and parts.port == DEFAULT_PORTS.get(parts.scheme):
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


def _signing_key(secret_key: str, day: str, scope: SigningScope) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (day, scope.region, scope.service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
