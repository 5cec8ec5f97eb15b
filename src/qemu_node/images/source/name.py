"""What a job's `image` may name: a URL, an object of S3, an image of a registry, a path. Pure.

Owns the grammar of each and the form in which it is shown: user, password and query of a URL, which
may hold a token, never appear in a message, a log or a file of the cache. Does not own which
of them the operator allows (`allowlist`).
"""

import hashlib
import re
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote

from qemu_node.errors import JobError
from qemu_node.images.http.url import UrlError, parse_host_port, parse_url, redact
from qemu_node.images.source.presigned import without_signature

DIGEST_PREFIX = "sha256:"

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")
_KEY_CHARS = 32  # 128 bits of SHA-256

# docs.aws.amazon.com, S3 User Guide, "Bucket naming rules" and "Naming objects".
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_OBJECT_MAX_BYTES = 1024

# github.com/opencontainers/distribution-spec, spec.md, "Pulling manifests".
_REPOSITORY_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_REPOSITORY_PART}(?:/{_REPOSITORY_PART})*")
_REPOSITORY_MAX_CHARS = 255
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_OCI_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DEFAULT_TAG = "latest"

_SUPPORTED = "use https, http, s3, oci, or a path inside the task directory or images.image_paths"


@dataclass(frozen=True, slots=True)
class UrlSource:
    """An http or https URL; as text it shows no secret."""

    url: str = field(repr=False)
    """As the job wrote it, less the fragment. May hold a password: not to be shown."""
    shown: str
    """The URL in messages."""
    host: str
    """`host` or `host:port` of the URL, in lower case: credentials are found by it."""
    file_name: str
    """The last part of its path, decoded; may be empty."""

    def __str__(self) -> str:
        return self.shown

    def key(self, scope: str = "") -> str:
        """Return the cache's key of this URL when it is fetched with the credentials `scope`.

        A password in the URL is part of it, and cannot be read from it. The signature of a
        presigned URL is not part of it: see `signature`.
        """
        unsigned = without_signature(self.url)
        # No URL holds a space: one without a signature has another key.
        return _key(self.url if unsigned is None else f"{unsigned} presigned", scope)

    @property
    def signature(self) -> str | None:
        """A digest of the whole URL if it is presigned, else None."""
        return None if without_signature(self.url) is None else _key(self.url, "")


class _ShownSource:
    """A source whose text in messages is all that it is; no secret is in it."""

    __slots__ = ()

    @property
    @abstractmethod
    def shown(self) -> str:
        """The source in messages."""

    def __str__(self) -> str:
        return self.shown

    def key(self, scope: str = "") -> str:
        """Return the cache's key of this source when it is fetched with the credentials `scope`."""
        return _key(self.shown, scope)


@dataclass(frozen=True, slots=True)
class S3Source(_ShownSource):
    """An object of S3, or of a server with the same protocol."""

    bucket: str
    object_key: str
    """Taken as it is: nothing in it is encoded."""

    @property
    def shown(self) -> str:
        """The object in messages."""
        return f"s3://{self.bucket}/{self.object_key}"

    @property
    def host(self) -> str:
        """Credentials are found by it."""
        return f"s3://{self.bucket}"

    @property
    def file_name(self) -> str:
        """The last part of the object's key."""
        return PurePosixPath(self.object_key).name


@dataclass(frozen=True, slots=True)
class OciSource(_ShownSource):
    """An image that a registry keeps as the one layer of an OCI artifact."""

    registry: str
    """`host` or `host:port`, in lower case."""
    repository: str
    reference: str
    """A tag, or a digest `sha256:…`, of the manifest."""

    @property
    def shown(self) -> str:
        """The image in messages."""
        separator = "@" if self.is_digest else ":"
        return f"oci://{self.registry}/{self.repository}{separator}{self.reference}"

    @property
    def is_digest(self) -> bool:
        """Whether the reference always names the same bytes."""
        return self.reference.startswith(DIGEST_PREFIX)

    @property
    def host(self) -> str:
        """Credentials are found by it."""
        return self.registry

    @property
    def file_name(self) -> str:
        """The last part of the repository's name."""
        return PurePosixPath(self.repository).name


RemoteSource = UrlSource | S3Source | OciSource
"""A source that is downloaded into the cache."""


@dataclass(frozen=True, slots=True)
class PathSource:
    """A file on this host: relative to the task directory, or absolute."""

    path: str

    def __str__(self) -> str:
        return self.path


def parse_source(text: str) -> RemoteSource | PathSource:
    """Return the source that a job's `image` names.

    Raises:
        JobError: it is not a source of images.
    """
    scheme = _SCHEME.match(text)
    if scheme is not None:
        match scheme["scheme"].lower():
            case "http" | "https":
                return url_source(text, "image")
            case "s3":
                return _parse_s3(text, text[scheme.end() :])
            case "oci":
                return _parse_oci(text, text[scheme.end() :])
            case _:
                raise JobError(
                    f"image {redact(text)}: {scheme['scheme']}:// is not supported",
                    hint=_SUPPORTED,
                )
    if not text.strip() or "\0" in text:
        raise JobError("image is empty", hint="name a URL or a path")
    if ".." in PurePosixPath(text).parts:
        raise JobError(f'image {text!r}: ".." is not allowed in a path')
    return PathSource(text)


def url_source(text: str, option: str) -> UrlSource:
    """Return the http(s) URL in `text`; `option` names the job's option in errors.

    Raises:
        JobError: it is not one.
    """
    try:
        url = parse_url(text)
    except UrlError as exc:
        raise JobError(
            f"{option} {redact(text)!r} is not a URL: {exc}",
            hint="write a space as %20" if " " in text else None,
        ) from exc
    rest = text.partition("#")[0].partition("://")[2]
    return UrlSource(
        url=f"{url.scheme}://{rest}",
        shown=redact(text),
        host=url.host_port,
        file_name=PurePosixPath(_decoded(url.path)).name,
    )


def _decoded(path: str) -> str:
    """Return a URL's path decoded from UTF-8, or from Windows-1252, as old servers use it."""
    try:
        return unquote(path, errors="strict")
    except UnicodeDecodeError:
        return unquote(path, encoding="cp1252", errors="replace")


def _parse_s3(text: str, rest: str) -> S3Source:
    bucket, _, object_key = rest.partition("/")
    if _BUCKET.fullmatch(bucket) is None:
        raise JobError(
            f"image {redact(text)}: the name of the S3 bucket is not valid", hint=_S3_HINT
        )
    if _UNPRINTABLE.search(object_key):
        raise JobError(f"image {redact(text)!r} holds a space or a control character")
    # A client or proxy on the way would resolve such parts as directories.
    parts = object_key.split("/")
    is_odd = not parts[-1] or "." in parts or ".." in parts
    if is_odd or len(object_key.encode(errors="replace")) > _OBJECT_MAX_BYTES:
        raise JobError(f"image {redact(text)} does not name an S3 object", hint=_S3_HINT)
    return S3Source(bucket, object_key)


_S3_HINT = "write s3://bucket/path/of/image.qcow2; the bucket's region is set in node.toml"


def _parse_oci(text: str, rest: str) -> OciSource:
    registry, _, path = rest.partition("/")
    path, at, digest = path.partition("@")
    repository, colon, tag = path.partition(":")
    is_right = (
        len(repository) <= _REPOSITORY_MAX_CHARS
        and _REPOSITORY.fullmatch(repository)
        and (not colon or _TAG.fullmatch(tag))
        and (not at or _OCI_DIGEST.fullmatch(digest))
    )
    wrong = JobError(
        f"image {redact(text)} does not name an image of an OCI registry",
        hint="write oci://registry/repository:tag or oci://registry/repository@sha256:…",
    )
    if not is_right:
        raise wrong
    try:
        host, port = parse_host_port(registry)
    except UrlError as exc:
        raise wrong from exc
    registry = host if port is None else f"{host}:{port}"
    # If both are given, the digest is used, as by container runtimes.
    return OciSource(registry, repository, digest or tag or _DEFAULT_TAG)


def _key(text: str, scope: str) -> str:
    secret = f"{text}\0{scope}" if scope else text
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()[:_KEY_CHARS]
