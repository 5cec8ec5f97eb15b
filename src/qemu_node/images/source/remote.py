"""A source as the jobs of one namespace see it: with the credentials that they may use.

Owns joining a source with the operator's credential, its key in the cache, and the request for a
URL. Does not own which credential applies (`credentials`) nor requests of S3 and OCI (`s3`,
`registry`).
"""

from dataclasses import dataclass
from urllib.parse import unquote

from qemu_node.images.http.httpfile import HttpFile, Sign
from qemu_node.images.http.url import parse_url
from qemu_node.images.source.checksum import Checksum
from qemu_node.images.source.credentials import Credential, CredentialStore, basic_header
from qemu_node.images.source.name import OciSource, RemoteSource, UrlSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A source with the credential that is used for it."""

    source: RemoteSource
    credential: Credential | None

    def __str__(self) -> str:
        return self.source.shown

    @property
    def key(self) -> str:
        """The source's key in the cache. Other credentials make another key, so another image."""
        return self.source.key("" if self.credential is None else self.credential.scope)

    @property
    def signature(self) -> str | None:
        """What tells one presigned URL of the object from another; None if it is not presigned."""
        return self.source.signature if isinstance(self.source, UrlSource) else None

    @property
    def is_fixed(self) -> bool:
        """Whether it always names the same bytes."""
        return isinstance(self.source, OciSource) and self.source.is_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """The file that a source names at this moment."""

    file: HttpFile
    version: str | None = None
    """What tells it from another version; None if only its validators tell.

    A registry's is the digest of the manifest, which changes like an ETag."""
    checksum: Checksum | None = None
    """Of the file as served, if the source names one."""


def find_remote(
    source: RemoteSource, credentials: CredentialStore, namespace: str | None
) -> Remote:
    """Return `source` as the jobs of `namespace` see it; None stands for no job.

    A URL that holds a user or password gets no credential of the operator.
    """
    if isinstance(source, UrlSource) and parse_url(source.url).login is not None:
        return Remote(source=source, credential=None)
    return Remote(source=source, credential=credentials.find(source.host, namespace))


def url_file(source: UrlSource, credential: Credential | None) -> HttpFile:
    """Return how the URL `source` is asked for."""
    url = parse_url(source.url)
    if url.login is not None:
        sign: Sign | None = _basic(url.login)
    else:
        sign = None if credential is None else credential.sign_http()
    return HttpFile(url=str(url), shown=source.shown, sign=sign)


def _basic(login: str) -> Sign:
    """Return a `Sign` for the user and password of a URL, `login` as it is written there."""
    user, _, password = login.partition(":")
    header = basic_header(unquote(user), unquote(password))
    return lambda _method, _url: header
