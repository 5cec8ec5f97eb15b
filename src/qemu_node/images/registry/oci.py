"""An image in a registry as a file behind http(s).

Owns the requests that lead from a reference to a blob: manifest, token, manifest of the platform.
Does not own making requests (`http`) nor what manifests mean (`manifest`).

A secret is sent to the registry that the operator named, and to a token service that the registry
names over https or that is on the registry's own host. It is not sent to where these redirect.

Sources: github.com/opencontainers/distribution-spec, spec.md; distribution.github.io/distribution,
"Token Authentication Specification".
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Protocol
from urllib.parse import quote, urlencode

import msgspec

from qemu_node.images.errors import ImageDownloadError, ImageRefusedError
from qemu_node.images.http.httpfile import HttpFile, Sign
from qemu_node.images.http.small import SmallAnswer
from qemu_node.images.http.url import HttpUrl, UrlError, is_loopback, parse_host_port, parse_url
from qemu_node.images.registry.challenge import Challenge, parse_challenges
from qemu_node.images.registry.manifest import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_BYTES,
    check_digest,
    choose_layer,
    choose_manifest,
    digest_of,
    parse_document,
)
from qemu_node.images.source.checksum import Algorithm, Checksum
from qemu_node.images.source.credentials import Credential
from qemu_node.images.source.name import OciSource
from qemu_node.images.source.remote import Located
from qemu_node.text import DECODE_ERRORS

_STATUS_UNAUTHORIZED = 401
_TOKEN_ANSWER_MAX_BYTES = 64 << 10
_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
# Docker Hub's images are named after docker.io, and its registry is elsewhere
# (github.com/distribution/reference, and moby's registry/config.go).
_ALIASES = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_CREDENTIALS_HINT = "see images.credentials in node.toml"


class FetchSmall(Protocol):
    """`fetch.fetch_small` with its limits and addresses bound."""

    async def __call__(self, file: HttpFile, *, max_bytes: int) -> SmallAnswer:
        """Return what `file` is, if it is at most so large."""


async def resolve_oci(
    source: OciSource,
    credential: Credential | None,
    *,
    fetch_small: FetchSmall,
    known: str | None = None,
) -> Located | None:
    """Return the file that `source` names now; None if that is still the manifest `known`.

    Raises:
        ImageDownloadError: the registry or its token service does not answer as it should.
        ImageRefusedError: it refuses, or it does not have the disk of a VM.
        ChecksumMismatchError: it gave another manifest than the digest names.
    """
    registry = Registry(source, credential, fetch_small)
    if known is not None and await registry.still_has(source.reference, known):
        return None
    wanted = source.reference if source.is_digest else None
    body = await registry.manifest(source.reference, wanted)
    document = parse_document(body, source.shown)
    manifest_digest = digest_of(body)
    if manifest_digest == known:
        return None
    if document.manifests is not None:
        chosen = choose_manifest(document, source.shown)
        body = await registry.manifest(chosen.digest, chosen.digest, size_bytes=chosen.size)
        document = parse_document(body, source.shown)
    layer = choose_layer(document, source.shown)
    algorithm, _, digest = layer.digest.partition(":")
    return Located(
        file=registry.blob(layer.digest, layer.size),
        version=manifest_digest,
        checksum=Checksum(Algorithm(algorithm), digest),
    )


class Registry:
    """Requests to a registry about one repository."""

    def __init__(
        self, source: OciSource, credential: Credential | None, fetch_small: FetchSmall
    ) -> None:
        self._source = source
        self._credential = credential
        self._fetch_small = fetch_small
        host = _ALIASES.get(source.registry, source.registry)
        is_local = is_loopback(parse_host_port(host)[0])
        is_plain = is_local or (credential is not None and credential.plain_http)
        self._origin = parse_url(f"{'http' if is_plain else 'https'}://{host}")
        is_token = credential is not None and credential.bearer is not None
        # A password is sent only when asked for: most registries want it at their token service.
        self._sign = credential.sign_http() if credential is not None and is_token else None
        self._challenge: Challenge | None = None
        """The registry's request for a token of its token service."""

    def blob(self, digest: str, size_bytes: int) -> HttpFile:
        """Return how a blob is asked for, with a token that is renewed."""
        file = dataclasses.replace(self._file(f"blobs/{digest}"), size_bytes=size_bytes)
        if self._challenge is None:
            return file
        return dataclasses.replace(file, sign=self._sign_now, renew=self._renew)

    def _file(self, path: str, accept: str | None = None) -> HttpFile:
        """Return how a path of the repository is asked for, with the newest `Sign`."""
        repository = quote(self._source.repository, safe="/")
        return HttpFile(
            url=f"{self._origin.scheme}://{self._origin.host_port}/v2/{repository}/{path}",
            shown=self._source.shown,
            sign=self._sign,
            accept=accept,
        )

    async def still_has(self, reference: str, digest: str) -> bool:
        """Tell whether `reference` still names the manifest `digest`.

        Asked by HEAD: a GET counts as a pull, of which Docker Hub allows some a day
        (docs.docker.com/docker-hub/usage/pulls).
        """
        try:
            answer = await self._ask("HEAD", reference)
        except (ImageDownloadError, ImageRefusedError):
            # Not every registry supports HEAD: some answer 404, some 501. GET gives the reason.
            return False
        return answer.headers.get("docker-content-digest") == digest

    async def manifest(
        self, reference: str, digest: str | None, *, size_bytes: int | None = None
    ) -> bytes:
        """Return a manifest or index, checked against `digest` and its size where known."""
        answer = await self._ask("GET", reference)
        if digest is not None:
            check_digest(answer.body, digest, self._source.shown, size_bytes=size_bytes)
        return answer.body

    async def _ask(self, method: str, reference: str) -> SmallAnswer:
        """Return the answer about a manifest, after logging in if the registry asks for that."""
        path = f"manifests/{reference}"

        async def ask() -> SmallAnswer:
            file = dataclasses.replace(self._file(path, _ACCEPT), method=method)
            return await self._fetch_small(file, max_bytes=MAX_BYTES)

        answer = await ask()
        if answer.status == _STATUS_UNAUTHORIZED and self._sign is None:
            self._sign = await self._answer(answer)
            answer = await ask()
        if answer.status == _STATUS_UNAUTHORIZED:
            raise self._denied("the registry does not accept our credentials")
        return answer

    async def _answer(self, answer: SmallAnswer) -> Sign:
        """Return the `Sign` for a registry that asks for credentials."""
        if answer.is_foreign:
            raise self._denied(
                "another host, to which the registry redirects, asks for credentials"
            )
        for challenge in parse_challenges(answer.headers.get("www-authenticate", "")):
            if challenge.scheme == "bearer":
                self._challenge = challenge
                return _bearer(await self._token(challenge))
            if challenge.scheme == "basic":
                sign = None if self._credential is None else self._credential.sign_basic()
                if sign is None:
                    raise self._denied("the registry asks for a user and a password")
                return sign
        raise self._denied("the registry asks for credentials in an unknown way")

    async def _renew(self) -> None:
        """Get a new token."""
        assert self._challenge is not None
        self._sign = _bearer(await self._token(self._challenge))

    def _sign_now(self, method: str, url: str) -> Mapping[str, str]:
        """Sign with the newest token."""
        assert self._sign is not None
        return self._sign(method, url)

    async def _token(self, challenge: Challenge) -> str:
        """Return a token to pull with, for the operator's user or anonymous."""
        realm = self._realm(challenge.parameters.get("realm", ""))
        query = {"scope": f"repository:{self._source.repository}:pull"}
        if service := challenge.parameters.get("service"):
            query["service"] = service
        more = urlencode(query)
        file = HttpFile(
            url=f"{realm}{'&' if '?' in realm.target else '?'}{more}",
            shown=f"the token for {self._source.shown} at {realm.host}",
            sign=self._sign_for(realm),
        )
        answer = await self._fetch_small(file, max_bytes=_TOKEN_ANSWER_MAX_BYTES)
        if answer.status == _STATUS_UNAUTHORIZED:
            raise self._denied(f"{realm.host} does not accept our credentials")
        token = None if answer.is_foreign else parse_token(answer.body)
        if token is None:
            raise ImageRefusedError(f"{file.shown}: the answer contains no token")
        return token

    def _realm(self, text: str) -> HttpUrl:
        """Return the token service's URL, if it may be used."""
        wrong = ImageRefusedError(
            f"{self._source.shown}: the registry names no valid token service"
        )
        try:
            realm = parse_url(text)
        except UrlError:
            raise wrong from None
        if realm.login is not None or not text.isascii():
            raise wrong
        if realm.scheme == "http" and self._origin.scheme != "http":
            raise ImageRefusedError(
                f"{self._source.shown}: the registry names a token service without https: "
                f"{realm.host}"
            )
        return realm

    def _sign_for(self, realm: HttpUrl) -> Sign | None:
        is_own = realm.host == self._origin.host
        if self._credential is None or not (is_own or self._origin.scheme == "https"):
            return None
        return self._credential.sign_basic()

    def _denied(self, reason: str) -> ImageRefusedError:
        return ImageRefusedError(
            f"cannot fetch {self._source.shown}: {reason}",
            status=_STATUS_UNAUTHORIZED,
            hint=_CREDENTIALS_HINT,
        )


class _TokenAnswer(msgspec.Struct, frozen=True):
    """The answer of a token service; OAuth 2.0 calls the token `access_token`."""

    token: str | None = None
    access_token: str | None = None


# RFC 6750, 2.1, at most as long as HTTP servers accept a header.
_Token = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9._~+/=-]{1,32768}\Z")]


def parse_token(body: bytes) -> str | None:
    """Return the token in a token service's answer; None if there is none that can be sent."""
    try:
        answer = msgspec.json.decode(body, type=_TokenAnswer)
        return msgspec.convert(answer.token or answer.access_token, _Token)
    except DECODE_ERRORS:
        return None


def _bearer(token: str) -> Sign:
    def sign(_method: str, _url: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {token}"}

    return sign
