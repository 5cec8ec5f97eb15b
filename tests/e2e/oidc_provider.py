"""A provider of OIDC on loopback that names whoever it is told to name; its keys are openssl's.

Sources: OpenID Connect Core 1.0 2, 3.1.3.3; Discovery 1.0 4.2; RFC 7517, RFC 7518 6.3.1.
"""

import base64
import contextlib
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlencode, urlsplit

from aiohttp import web
from aiohttp.test_utils import TestServer

from qemu_node.host.process.command import run

CLIENT_ID = "nomad"


@dataclass
class Provider:
    """Signs what it is told."""

    key: Path
    modulus: str
    issuer: str = ""
    nonces: dict[str, str] = field(default_factory=dict)
    """Code → nonce of the login that it is for."""

    def agree(self, auth_url: str) -> tuple[str, str]:
        """Return the state and code with which the browser comes back after its user said yes."""
        query = parse_qs(urlsplit(auth_url).query)
        assert auth_url.startswith(f"{self.issuer}/authorize?")
        code = f"code-{len(self.nonces)}"
        self.nonces[code] = query["nonce"][0]
        return query["state"][0], code

    async def _authorize(self, request: web.Request) -> NoReturn:
        """Send a browser back at once, as if its user had said yes."""
        state, code = self.agree(f"{self.issuer}{request.path_qs}")
        query = urlencode({"state": state, "code": code})
        raise web.HTTPFound(f"{request.query['redirect_uri']}?{query}")

    async def _configuration(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
                "id_token_signing_alg_values_supported": ["RS256"],
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
            }
        )

    async def _jwks(self, _request: web.Request) -> web.Response:
        key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "e": "AQAB"}
        return web.json_response({"keys": [key | {"n": self.modulus}]})

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        nonce = self.nonces.pop(str(form.get("code")), None)
        if nonce is None:
            return web.json_response({"error": "invalid_grant"}, status=400)
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "anna",
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            "groups": ["admins"],
        }
        return web.json_response(
            {
                "access_token": "a",
                "token_type": "Bearer",
                "expires_in": 300,
                "id_token": await self._sign(claims),
            }
        )

    async def _sign(self, claims: dict[str, Any]) -> str:
        header = {"alg": "RS256", "kid": "1", "typ": "JWT"}
        text = ".".join(_text(json.dumps(part).encode()) for part in (header, claims))
        argv = ["openssl", "dgst", "-sha256", "-sign", str(self.key)]
        done = await run(argv, timeout_s=30, stdin=text.encode())
        return f"{text}.{_text(done.stdout)}"


@contextlib.asynccontextmanager
async def running_provider(directory: Path) -> AsyncGenerator[Provider]:
    """Return one that listens on loopback."""
    key = directory / "provider.pem"
    await run(["openssl", "genrsa", "-out", str(key), "2048"], timeout_s=60)
    shown = await run(["openssl", "rsa", "-in", str(key), "-noout", "-modulus"], timeout_s=30)
    modulus = bytes.fromhex(shown.stdout.decode().strip().partition("=")[2])
    provider = Provider(key, _text(modulus))
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", provider._configuration)
    app.router.add_get("/authorize", provider._authorize)
    app.router.add_get("/jwks", provider._jwks)
    app.router.add_post("/token", provider._token)
    async with TestServer(app) as server:
        provider.issuer = str(server.make_url("")).rstrip("/")
        yield provider


def auth_method(provider: Provider, redirect_uri: str) -> dict[str, Any]:
    """Return the body that has Nomad know `provider` as `company`."""
    return {
        "Name": "company",
        "Type": "OIDC",
        "TokenLocality": "local",
        "MaxTokenTTL": "1h",
        "Config": {
            "OIDCDiscoveryURL": provider.issuer,
            "OIDCClientID": CLIENT_ID,
            "OIDCClientSecret": "secret",
            "OIDCDisableUserInfo": True,
            "BoundAudiences": [CLIENT_ID],
            "AllowedRedirectURIs": [redirect_uri],
            "ListClaimMappings": {"groups": "groups"},
        },
    }


def binding_rule(policy: str) -> dict[str, str]:
    """Return the body that gives a policy to whom `company` names an admin."""
    return {
        "AuthMethod": "company",
        "Selector": "admins in list.groups",
        "BindType": "policy",
        "BindName": policy,
    }


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
