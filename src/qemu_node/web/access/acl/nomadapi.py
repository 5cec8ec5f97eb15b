"""Nomad's HTTP API, asked with a user's own token.

Owns the connections to the agent, their limits, and the difference between an answer that says no
and no answer. Does not own what is asked (the callers) nor whose token it is: there is none of the
daemon's. What this node asks for itself is `nodeos.agent.client`.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from qemu_node.errors import ConfigError, NodeError
from qemu_node.text import DECODE_ERRORS, printable

T = TypeVar("T")

DEFAULT_ADDRESS = "http://127.0.0.1:4646"
_TIMEOUT = aiohttp.ClientTimeout(total=10.0, sock_connect=3.0)
_ANSWER_MAX_BYTES = 64 << 20
_WORDS_MAX_BYTES = 1000
_CONNECTIONS_MAX = 16
_READ_BYTES = 256 << 10


class NomadError(NodeError):
    """Nomad gave no usable answer: nothing follows from it about anybody's rights."""

    retry = True


class NomadRefusedError(NodeError):
    """Nomad answered with an error."""

    def __init__(self, what: str, status: int, words: str) -> None:
        super().__init__(f"Nomad refused {what}: {status} {printable(words.strip())}")
        self.status = status
        self.words = words
        """As Nomad said it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NomadServer:
    """Where the agent is, and how its certificate is checked."""

    address: str = DEFAULT_ADDRESS
    """`http://` or `https://`, host and port."""
    ca_file: Path | None = None
    """Who signs its certificate; None: whom the system trusts."""
    cert_file: Path | None = None
    key_file: Path | None = None
    """What is shown to an agent with `verify_https_client`."""
    server_name: str | None = None
    """The name in its certificate, if not the host of `address`; for an agent of this node that is
    `client.global.nomad`, or with another region, that."""


class NomadApi:
    """The agent's API; a context, which keeps its connections."""

    def __init__(self, server: NomadServer) -> None:
        self._base = server.address.rstrip("/")
        self._ssl = _tls_context(server) if self._base.startswith("https:") else None
        self._server_name = server.server_name
        self._session: aiohttp.ClientSession | None = None

    @property
    def address(self) -> str:
        """Where the agent is asked."""
        return self._base

    async def __aenter__(self) -> Self:
        # No cookies, and no proxy of the environment: a token goes to the agent and nowhere else.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS_MAX),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_TIMEOUT,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, kind: type[T], *, token: str | None) -> T:
        """Return the answer to GET `path`, which is of the type `kind`.

        Args:
            path: With `/v1`; what others have written in it is `quoted`.
            kind: What is expected.
            token: Whose rights count; None: nobody's.

        Raises:
            NomadRefusedError: Nomad said no.
            NomadError: it does not answer, or not so.
        """
        return await self._ask("GET", path, None, kind, token)

    async def post(
        self, path: str, body: Mapping[str, Any], kind: type[T], *, token: str | None
    ) -> T:
        """Return the answer to POST `path`.

        Raises:
            NomadRefusedError: Nomad said no.
            NomadError: it does not answer, or not so; the request may have been carried out.
        """
        return await self._ask("POST", path, msgspec.json.encode(body), kind, token)

    async def read(self, path: str, *, token: str | None) -> bytes:
        """Return the answer to GET `path` as it is, for what is no JSON.

        Raises:
            NomadRefusedError: Nomad said no.
            NomadError: it does not answer.
        """
        return await self._exchange("GET", path, None, token, f"GET {path.partition('?')[0]}")

    async def _ask(
        self,
        method: Literal["GET", "POST"],
        path: str,
        body: bytes | None,
        kind: type[T],
        token: str | None,
    ) -> T:
        what = f"{method} {path.partition('?')[0]}"
        data = await self._exchange(method, path, body, token, what)
        try:
            return msgspec.json.decode(data or b"null", type=kind)
        except DECODE_ERRORS as exc:
            words = printable(str(exc))
            raise NomadError(f"Nomad's answer to {what} is not understood: {words}") from exc

    async def _exchange(
        self, method: str, path: str, body: bytes | None, token: str | None, what: str
    ) -> bytes:
        assert self._session is not None, "used outside of its context"
        try:
            # A redirect would carry the token elsewhere.
            async with self._session.request(
                method,
                URL(self._base + path, encoded=True),
                data=body,
                headers={"X-Nomad-Token": token} if token is not None else {},
                ssl=self._ssl if self._ssl is not None else True,
                server_hostname=self._server_name if self._ssl is not None else None,
                allow_redirects=False,
            ) as response:
                data = await _read(response, what)
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            # ValueError: a header of the answer, or a token that cannot be one.
            words = printable(str(exc) or type(exc).__name__)
            raise NomadError(
                f"Nomad does not answer on {self._base}: {words}",
                hint="`systemctl status nomad` says whether it runs",
            ) from exc
        if status >= 300:
            words = data[:_WORDS_MAX_BYTES].decode(errors="replace")
            raise NomadRefusedError(what, status, words)
        return data


def quoted(text: str) -> str:
    """Return `text` as one part of a path or as the value of a query."""
    return quote(text, safe="")


async def _read(response: aiohttp.ClientResponse, what: str) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_chunked(_READ_BYTES):
        data += piece
        if len(data) > _ANSWER_MAX_BYTES:
            raise NomadError(f"Nomad's answer to {what} is too long")
    return bytes(data)


def _tls_context(server: NomadServer) -> ssl.SSLContext:
    """Return a context that trusts the cluster's CA, or what the system trusts.

    Raises:
        ConfigError: a file is missing or is no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=server.ca_file)
        if server.cert_file is not None and server.key_file is not None:
            context.load_cert_chain(server.cert_file, server.key_file)
    except OSError as exc:
        # ssl.SSLError is an OSError.
        raise ConfigError(f"the certificates for Nomad's API cannot be used: {exc}") from exc
    return context
