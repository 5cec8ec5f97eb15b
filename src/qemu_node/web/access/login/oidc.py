"""Login through Nomad's OIDC: the agent speaks to the provider, we carry the browser's answer.

Owns the attempts that have begun: each belongs to one browser, by a cookie, and is used once. Does
not own the provider nor its secrets, which are Nomad's (an auth method of the type OIDC, whose
`AllowedRedirectURIs` must have the address that `callback_of` returns).

Source: Nomad 2.0.6, command/agent/acl_endpoint.go, nomad/structs/acl.go (`ACLOIDCAuthURLRequest`,
`ACLOIDCCompleteAuthRequest`).
"""

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from qemu_node.text import printable
from qemu_node.web.access.acl.nomadapi import NomadApi, NomadError, NomadRefusedError
from qemu_node.web.http.listener.openers import network_of
from qemu_node.web.http.problems import Problem, bad_request, not_logged_in, unreachable

CALLBACK_PATH = "/oidc/callback"
ATTEMPT_S = 600.0
_ATTEMPTS_MAX = 256
ATTEMPTS_OF_ADDRESS_MAX = 16
"""Logins that one address has begun and not completed: it keeps nobody else out."""
_SECRET_BYTES = 32


class AuthMethod(msgspec.Struct, frozen=True, rename="pascal"):
    """An item of GET /v1/acl/auth-methods, which Nomad answers to everybody."""

    name: str = ""
    type: str = ""
    default: bool = False


_METHODS: Any = list[AuthMethod] | None


class _AuthUrl(msgspec.Struct, rename="pascal"):
    auth_url: str = msgspec.field(name="AuthURL", default="")


class _Token(msgspec.Struct):
    secret_id: str = msgspec.field(name="SecretID", default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    method: str
    nonce: str
    state: str
    redirect_uri: str
    network: str
    until: float


class Oidc:
    """Of one application."""

    def __init__(self, api: NomadApi, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._attempts: dict[str, _Attempt] = {}

    async def methods(self) -> list[AuthMethod]:
        """Return the auth methods that begin with a provider's page.

        Raises:
            NomadError: Nomad does not answer.
        """
        try:
            listed = await self._api.get("/v1/acl/auth-methods", _METHODS, token=None)
        except NomadRefusedError:
            return []
        return [method for method in listed or () if method.type == "OIDC"]

    async def begin(self, method: str, origin: str, *, address: str) -> tuple[str, str]:
        """Return the provider's address and the secret of this attempt, for a cookie.

        Args:
            method: The auth method's name.
            origin: The console's, as the browser shows it.
            address: Of whoever begins.

        Raises:
            Problem: Nomad refuses or does not answer.
        """
        network = network_of(address)
        self._make_room(network)
        nonce = secrets.token_urlsafe(_SECRET_BYTES)
        redirect_uri = callback_of(origin)
        try:
            answer = await self._api.post(
                "/v1/acl/oidc/auth-url",
                {"AuthMethodName": method, "RedirectURI": redirect_uri, "ClientNonce": nonce},
                _AuthUrl,
                token=None,
            )
        except NomadRefusedError as exc:
            raise bad_request(
                f"Nomad begins no login: {printable(exc.words.strip())}",
                hint=f"the auth method must have {redirect_uri} in AllowedRedirectURIs",
            ) from exc
        except NomadError as exc:
            raise unreachable(exc) from exc
        url = urlsplit(answer.auth_url)
        states = parse_qs(url.query).get("state", [])
        if url.scheme not in ("https", "http") or len(states) != 1:
            raise bad_request("Nomad named no address of a provider")
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        self._attempts[secret] = _Attempt(
            method=method,
            nonce=nonce,
            state=states[0],
            redirect_uri=redirect_uri,
            network=network,
            until=self._clock() + ATTEMPT_S,
        )
        return answer.auth_url, secret

    async def complete(self, secret: str, *, state: str, code: str, issuer: str) -> str:
        """Return the token that Nomad makes for whom the provider has named.

        Args:
            secret: Of `begin`, from the browser's cookie.
            state: What the provider has sent the browser back with; so are the others.
            code: For Nomad.
            issuer: For Nomad; may be empty.

        Raises:
            Problem: the attempt is not this browser's, or too old; or Nomad refuses.
        """
        attempt = self._attempts.pop(secret, None)
        if attempt is None or attempt.until <= self._clock():
            raise not_logged_in("this login was not begun here, or it took too long")
        if not hmac.compare_digest(attempt.state.encode(), state.encode()):
            raise not_logged_in("the answer belongs to another login")
        body = {
            "AuthMethodName": attempt.method,
            "ClientNonce": attempt.nonce,
            "State": state,
            "Code": code,
            "Iss": issuer,
            "RedirectURI": attempt.redirect_uri,
        }
        try:
            token = await self._api.post("/v1/acl/oidc/complete-auth", body, _Token, token=None)
        except NomadRefusedError as exc:
            raise not_logged_in(f"Nomad refuses: {printable(exc.words.strip())}") from exc
        except NomadError as exc:
            raise unreachable(exc) from exc
        return token.secret_id

    def _make_room(self, network: str) -> None:
        now = self._clock()
        self._attempts = {s: a for s, a in self._attempts.items() if a.until > now}
        own = sum(attempt.network == network for attempt in self._attempts.values())
        if len(self._attempts) >= _ATTEMPTS_MAX or own >= ATTEMPTS_OF_ADDRESS_MAX:
            raise Problem(429, "too-many-attempts", "too many logins have begun")


def callback_of(origin: str) -> str:
    """Return where the provider sends the browser back to."""
    return f"{origin}{CALLBACK_PATH}"
