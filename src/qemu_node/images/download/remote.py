"""What a remote source is asked for, and as whom.

Owns turning a source and the operator's credential into files behind http(s). Does not own which
credential counts (`credentials`), signing (`s3`, `oci`) nor fetching (`fetch`).
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from qemu_node.images.source.checksum import Checksum, parse_checksum
from qemu_node.images.source.credentials import Credential, CredentialStore
from qemu_node.images.source.httpfile import HttpFile, Sign
from qemu_node.images.source.name import OciSource, RemoteSource, S3Source, UrlSource
from qemu_node.images.source.url import parse_url

if TYPE_CHECKING:
    from qemu_node.images.registry.oci import FetchSmall


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A source as the jobs of one namespace have it."""

    source: RemoteSource
    credential: Credential | None

    def __str__(self) -> str:
        return self.source.shown

    @property
    def key(self) -> str:
        """What the cache files it under: who has other credentials has another image."""
        return self.source.key("" if self.credential is None else self.credential.scope)

    @property
    def is_fixed(self) -> bool:
        """Whether it means the same bytes for ever."""
        return isinstance(self.source, OciSource) and self.source.is_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """What a source means at this moment."""

    file: HttpFile
    version: str | None = None
    """What tells it from another version; None where only its validators do."""
    checksum: Checksum | None = None
    """Of the file as served, where the source vouches for it."""


def find_remote(
    source: RemoteSource, credentials: CredentialStore, namespace: str | None
) -> Remote:
    """Return `source` as the jobs of `namespace` have it; None where no job asks.

    A URL that holds a user or password speaks for itself: the operator's credentials are left out.
    """
    if isinstance(source, UrlSource) and parse_url(source.url).login is not None:
        return Remote(source=source, credential=None)
    return Remote(source=source, credential=credentials.find(source.host, namespace))


async def locate(
    remote: Remote, fetch_small: "FetchSmall", *, known: str | None = None
) -> Located | None:
    """Return what `remote` means at this moment; None where that is still the version `known`.

    Asks the source where that is a registry.

    Raises:
        ImageDownloadError, ImageRefusedError, ChecksumMismatchError: as `resolve_oci`.
    """
    match remote.source:
        case UrlSource():
            return Located(file=url_file(remote.source, remote.credential))
        case S3Source():
            from qemu_node.images.source.s3 import s3_file

            return Located(file=s3_file(remote.source, remote.credential))
        case OciSource():
            from qemu_node.images.registry.oci import resolve_oci

            blob = await resolve_oci(
                remote.source, remote.credential, fetch_small=fetch_small, known=known
            )
            if blob is None:
                return None
            checksum = parse_checksum(blob.layer_digest)
            assert isinstance(checksum, Checksum)  # `manifest` lets nothing else through.
            return Located(file=blob.file, version=blob.manifest_digest, checksum=checksum)


def url_file(source: UrlSource, credential: Credential | None) -> HttpFile:
    """Return how the URL `source` is asked for."""
    url = parse_url(source.url)
    if url.login is not None:
        sign: Sign | None = _basic(url.login)
    else:
        sign = None if credential is None else credential.sign_http()
    return HttpFile(url=str(url), shown=source.shown, sign=sign)


def _basic(login: str) -> Sign:
    """Return what tells a server the user and password of a URL, `login` as it is written there."""
    user, _, password = login.partition(":")
    pair = f"{unquote(user)}:{unquote(password)}"
    value = f"Basic {base64.b64encode(pair.encode()).decode()}"

    def sign(_method: str, _url: str) -> Mapping[str, str]:
        return {"Authorization": value}

    return sign
