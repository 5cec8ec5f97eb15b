"""A Nomad agent's API as the console sees it: tokens, policies, and what goes wrong.

Its answers are those of Nomad 2.0.6 (`tests/data/acl`), with their traps.
"""

import contextlib
import json
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer

from qemu_node.web.access.acl.nomadapi import NomadApi, NomadServer


def token_id(number: int) -> str:
    """Return a secret or accessor of the form that Nomad gives."""
    return str(uuid.UUID(int=number))


def namespaces(**capabilities: list[str]) -> dict[str, Any]:
    """Return `RulesJSON` with capabilities by namespace; `_` stands for a star."""
    return {
        "Namespaces": [
            {"Name": name.replace("_", "*"), "Policy": "", "Capabilities": listed}
            for name, listed in capabilities.items()
        ]
    }


EXPIRED = token_id(0xDEAD)
"""A token that has expired."""
READ = ["list-jobs", "read-job"]
VIEW = [*READ, "read-logs"]
CONTROL = [*VIEW, "alloc-exec"]
POWER = [*CONTROL, "alloc-lifecycle"]


@dataclass
class FakeNomad:
    """Answers what the test has put in."""

    has_acls: bool = True
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By secret."""
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    roles: dict[str, list[str]] = field(default_factory=dict)
    """Role id → policies."""
    one_time: dict[str, str] = field(default_factory=dict)
    """One-time secret → secret."""
    oidc: dict[str, str] = field(default_factory=dict)
    """Auth method → secret of whom the provider names."""
    oidc_states: list[str] = field(default_factory=list)
    redirects: list[str] = field(default_factory=list)
    broken: tuple[int, str] | None = None
    """It answers everything with this."""
    asked: list[str] = field(default_factory=list)
    address: str = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls) -> AsyncGenerator[Self]:
        """Return one that listens on loopback."""
        fake = cls()
        app = web.Application()
        app.router.add_route("*", "/v1/{tail:.*}", fake._answer)
        async with TestServer(app) as server:
            fake.address = str(server.make_url("")).rstrip("/")
            yield fake

    def api(self) -> NomadApi:
        """Return a client."""
        return NomadApi(NomadServer(address=self.address))

    def add_token(self, secret: str, **members: Any) -> str:
        """Have a client token; return its secret."""
        number = len(self.tokens) + 0xABCDEF0000
        self.tokens[secret] = {
            "AccessorID": str(uuid.UUID(int=number << 64)),
            "SecretID": secret,
            "Name": "anna",
            "Type": "client",
            "Policies": None,
            "Roles": None,
            "ExpirationTime": None,
        } | members
        return secret

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.path
        self.asked.append(f"{request.method} {path}")
        if self.broken is not None:
            return web.Response(status=self.broken[0], text=self.broken[1])
        secret = request.headers.get("X-Nomad-Token", "")
        if path == "/v1/acl/token/self":
            return self._self(secret)
        if not self.has_acls:
            return web.Response(status=400, text="ACL support disabled")
        if path == "/v1/acl/token/onetime/exchange":
            return await self._exchange(request)
        if path == "/v1/acl/auth-methods":
            return web.json_response([{"Name": name, "Type": "OIDC"} for name in self.oidc])
        if path.startswith("/v1/acl/oidc/"):
            return await self._answer_oidc(request)
        token = self.tokens.get(secret)
        if token is None:
            return web.Response(status=403, text="Permission denied")
        match path.split("/")[3:]:
            case ["policy", name]:
                if name not in self.policies:
                    return web.Response(status=404, text="ACL policy not found")
                return web.json_response(
                    {"Name": name, "Rules": "x", "RulesJSON": self.policies[name]}
                )
            case ["role", role_id]:
                if role_id not in self.roles:
                    return web.Response(status=404, text="ACL role not found")
                return web.json_response(
                    {"ID": role_id, "Policies": [{"Name": n} for n in self.roles[role_id]]}
                )
            case ["token", "onetime"]:
                made = token_id(0x0770000 + len(self.one_time))
                self.one_time[made] = secret
                return web.json_response({"OneTimeToken": {"OneTimeSecretID": made}})
            case _:
                return web.Response(status=404, text="not found")

    def _self(self, secret: str) -> web.Response:
        if not self.has_acls:
            return web.json_response({"AccessorID": "acls-disabled", "Type": "client"})
        if not secret:
            return web.json_response({"AccessorID": "anonymous", "Policies": ["anonymous"]})
        if secret == EXPIRED:
            return web.Response(status=500, text="ACL token expired")
        if secret not in self.tokens:
            try:
                uuid.UUID(secret)
            except ValueError:
                words = "failed to parse signed token: go-jose/go-jose: compact JWS format"
                return web.Response(status=500, text=words)
            return web.Response(status=403, text="Permission denied")
        return web.json_response(self.tokens[secret])

    async def _answer_oidc(self, request: web.Request) -> web.Response:
        body = json.loads(await request.text())
        if body["AuthMethodName"] not in self.oidc:
            return web.Response(status=400, text="auth-method not found")
        if request.path.endswith("auth-url"):
            self.redirects.append(body["RedirectURI"])
            self.oidc_states.append(f"state-{body['ClientNonce']}")
            url = f"https://provider.example/?state={self.oidc_states[-1]}"
            return web.json_response({"AuthURL": url})
        is_good = body["State"] == f"state-{body['ClientNonce']}" and body["Code"] == "good"
        if not is_good or body["RedirectURI"] not in self.redirects:
            return web.Response(status=403, text="Permission denied")
        return web.json_response(self.tokens[self.oidc[body["AuthMethodName"]]])

    async def _exchange(self, request: web.Request) -> web.Response:
        body = json.loads(await request.text())
        secret = self.one_time.pop(body.get("OneTimeSecretID", ""), None)
        if secret is None or secret not in self.tokens:
            return web.Response(status=403, text="Permission denied")
        return web.json_response({"Token": self.tokens[secret], "Index": 1})
