"""Nomad's HTTP API, asked with a user's own token.

Owns the connections to the agent, their limits, and the difference between an answer that says no
and no answer. Does not own what is asked (the callers) nor whose token it is: there is none of the
daemon's. What this node asks for itself is `nodeos.agent.client`.
"""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from qemu_node.errors import ConfigError, NodeError
from qemu_node.text import DECODE_ERRORS, printable
from qemu_node.web.http.listener.nodenames import own_addresses

T = TypeVar("T")

DEFAULT_ADDRESS = "http://127.0.0.1:4646"
_TIMEOUT = aiohttp.ClientTimeout(total=10.0, sock_connect=3.0)
_ANSWER_MAX_BYTES = 2 << 20
"""Of a token, a role, a policy, a login: Nomad's own have some KiB."""
_LARGE_MAX_BYTES = 32 << 20
"""Of the cluster's allocations, or of one with its job: 1 KiB for each of 30 000."""
_LARGE_AT_ONCE = 2
"""Of all who ask: each is in memory as text and decoded. The others wait, as long as any answer."""
_TURN_MAX_S = 10.0
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
    is_of_this_node: bool = False
    """It is the agent of this node, whose address nobody has given. It may listen on another
    address of the node than `address`, and its certificate may name none of them: Nomad's are for a
    role and a region (`client.global.nomad`). So it is whoever answers on an address of the node
    and has a certificate of `ca_file`; without that file names count, for everybody has one."""
    ca_file: Path | None = None
    """Who signs its certificate; None: whom the system trusts."""
    cert_file: Path | None = None
    key_file: Path | None = None
    """What is shown to an agent with `verify_https_client`."""
    server_name: str | None = None
    """The name in its certificate, if not the host of `address` (Nomad's tls_server_name)."""


class NomadApi:
    """The agent's API; a context, which keeps its connections."""

    def __init__(self, server: NomadServer) -> None:
        self._base = server.address.rstrip("/")
        self._ssl = _tls_context(server) if self._base.startswith("https:") else None
        self._server = server
        self._session: aiohttp.ClientSession | None = None
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

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

    async def get_large(self, path: str, kind: type[T], *, token: str | None) -> T:
        """Return what `get` does, where the answer grows with the cluster; few at a time.

        Raises:
            NomadRefusedError: Nomad said no.
            NomadError: it does not answer, or not so, or others wait for large answers, too.
        """
        try:
            async with asyncio.timeout(_TURN_MAX_S):
                await self._large.acquire()
        except TimeoutError as exc:
            raise NomadError("too much is asked of Nomad at this moment", hint="try again") from exc
        try:
            return await self._ask("GET", path, None, kind, token, _LARGE_MAX_BYTES)
        finally:
            self._large.release()

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

    def _bases(self) -> list[str]:
        """Return where the agent is asked, the likeliest first."""
        if not self._server.is_of_this_node:
            return [self._base]
        usual = self._server.address.rstrip("/")
        return list(dict.fromkeys([self._base, *bases_of_node(usual, own_addresses())]))

    async def _send(
        self,
        base: str,
        method: str,
        path: str,
        body: bytes | None,
        token: str | None,
        what: str,
        max_bytes: int,
    ) -> tuple[int, bytes]:
        """Return the status and the body of an answer."""
        assert self._session is not None, "used outside of its context"
        # A redirect would carry the token elsewhere.
        async with self._session.request(
            method,
            URL(base + path, encoded=True),
            data=body,
            headers={"X-Nomad-Token": token} if token is not None else {},
            ssl=self._ssl if self._ssl is not None else True,
            server_hostname=self._server.server_name if self._ssl is not None else None,
            allow_redirects=False,
        ) as response:
            return response.status, await _read(response, what, max_bytes)

    async def _ask(
        self,
        method: Literal["GET", "POST"],
        path: str,
        body: bytes | None,
        kind: type[T],
        token: str | None,
        max_bytes: int = _ANSWER_MAX_BYTES,
    ) -> T:
        what = f"{method} {path.partition('?')[0]}"
        data = await self._exchange(method, path, body, token, what, max_bytes)
        try:
            return msgspec.json.decode(data or b"null", type=kind)
        except DECODE_ERRORS as exc:
            words = printable(str(exc))
            raise NomadError(f"Nomad's answer to {what} is not understood: {words}") from exc

    async def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        token: str | None,
        what: str,
        max_bytes: int = _ANSWER_MAX_BYTES,
    ) -> bytes:
        failed: NomadError | None = None
        for base in self._bases():
            try:
                status, data = await self._send(base, method, path, body, token, what, max_bytes)
            except aiohttp.ClientConnectorError as exc:
                # Nothing was sent yet.
                failed = failed or _no_answer(base, exc)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
                # ValueError: a header of the answer, or a token that cannot be one.
                raise _no_answer(base, exc) from exc
            else:
                self._base = base
                break
        else:
            assert failed is not None
            raise failed
        if status >= 300:
            words = data[:_WORDS_MAX_BYTES].decode(errors="replace")
            raise NomadRefusedError(what, status, words)
        return data


def _no_answer(base: str, exc: Exception) -> NomadError:
    """Return the error of an agent that cannot be asked."""
    match exc:
        case aiohttp.ClientConnectorCertificateError():
            hint = (
                "set web.nomad_ca_file, or web.nomad_server_name to a name in its certificate "
                "(`client.global.nomad`), in node.toml"
            )
        case aiohttp.ClientSSLError():
            hint = "if it speaks http: set web.nomad_address in node.toml"
        case _:
            hint = "`systemctl status nomad` says whether it runs"
    words = printable(str(exc) or type(exc).__name__)
    return NomadError(f"Nomad does not answer on {base}: {words}", hint=hint)


def bases_of_node(address: str, own: Iterable[str]) -> list[str]:
    """Return where the agent of this node may listen: pure.

    Args:
        address: Where it listens as a rule.
        own: The node's addresses.
    """
    url = URL(address)
    return [address, *(str(url.with_host(host)).rstrip("/") for host in own)]


def quoted(text: str) -> str:
    """Return `text` as one part of a path or as the value of a query."""
    return quote(text, safe="")


async def _read(response: aiohttp.ClientResponse, what: str, max_bytes: int) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_chunked(_READ_BYTES):
        data += piece
        if len(data) > max_bytes:
            raise NomadError(f"Nomad's answer to {what} is too long")
    return bytes(data)


def _tls_context(server: NomadServer) -> ssl.SSLContext:
    """Return a context that trusts the cluster's CA, or what the system trusts.

    Raises:
        ConfigError: a file is missing or is no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=server.ca_file)
        if server.is_of_this_node and server.ca_file is not None and server.server_name is None:
            context.check_hostname = False
        if server.cert_file is not None and server.key_file is not None:
            context.load_cert_chain(server.cert_file, server.key_file)
    except OSError as exc:
        # ssl.SSLError is an OSError.
        raise ConfigError(f"the certificates for Nomad's API cannot be used: {exc}") from exc
    return context
