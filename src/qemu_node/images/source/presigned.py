"""Presigned URLs: which parts of the query are the signature. Pure.

Owns the query parameters of S3, CloudFront, Google Cloud Storage and Azure. Each new signature
makes another URL of the same object, so the cache's key leaves them out. Does not own what proves
that a job may have the object: only the source can check a signature (`download.pull`).

Sources: Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters" and, for version
2, "Signing and Authenticating REST Requests"; Amazon CloudFront Developer Guide, "Use signed URLs";
Google Cloud Storage, "Signed URLs"; Azure Storage, "Create a service SAS", "Create a user
delegation SAS" and "Create an account SAS".
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class _Scheme:
    """The parameters of one kind of signature, in lower case."""

    needed: frozenset[str]
    """All of these are there in a presigned URL."""
    others: frozenset[str]


def _scheme(needed: str, others: str) -> _Scheme:
    return _Scheme(frozenset(needed.split()), frozenset(others.split()))


_SCHEMES = (
    _scheme(
        "x-amz-signature x-amz-credential",
        "x-amz-algorithm x-amz-date x-amz-expires x-amz-signedheaders x-amz-security-token",
    ),
    _scheme(
        "x-goog-signature x-goog-credential",
        "x-goog-algorithm x-goog-date x-goog-expires x-goog-signedheaders",
    ),
    _scheme("signature awsaccesskeyid", "expires x-amz-security-token"),
    _scheme("signature googleaccessid", "expires"),
    _scheme("signature key-pair-id", "expires policy hash-algorithm"),
    _scheme(
        "sig sv",
        "ss srt sr se st sp sip spr si sdd ses skoid sktid skt ske sks skv saoid suoid scid",
    ),
)


# Azure's names are so short that other servers have them too, for what they serve.
_SAS_VERSION = re.compile(r"=\d{4}-\d\d-\d\d$")


def without_signature(url: str) -> str | None:
    """Return a presigned URL without its signature; None if `url` has none that is known."""
    base, _, query = url.partition("?")
    parameters = [(unquote(item.partition("=")[0]).lower(), item) for item in query.split("&")]
    names = {name for name, item in parameters if name != "sv" or _SAS_VERSION.search(item)}
    for scheme in _SCHEMES:
        if scheme.needed <= names:
            left_out = scheme.needed | scheme.others
            kept = "&".join(item for name, item in parameters if name not in left_out)
            return f"{base}?{kept}" if kept else base
    return None
