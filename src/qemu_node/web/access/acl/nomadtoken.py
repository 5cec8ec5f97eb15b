"""Whose token it is and what it allows, asked of Nomad.

Owns which answers are a login. Does not own the rules (`nomadacl`) nor how long an answer counts
(`sessions`).

Traps, seen with Nomad 2.0.6 (`GET /v1/acl/token/self`): a 200 is no login: with ACLs disabled any
text gets one (accessor `acls-disabled`), and without a token so does nobody (`anonymous`). A token
that has expired gets a 500. What is no UUID is taken for a workload's token and gets a 500 with one
of many texts, so it is not sent. The `anonymous` policy adds nothing to a token's rights.
"""

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import msgspec

from qemu_node.errors import NodeError
from qemu_node.text import printable
from qemu_node.web.access.acl.nomadacl import MANAGEMENT, Acl, Rules, compile_acl
from qemu_node.web.access.acl.nomadapi import NomadApi, NomadError, NomadRefusedError, quoted

T = TypeVar("T")

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_POLICIES_MAX = 256
_NAME_MAX_CHARS = 64
"""Of a token's name, which whoever made it chose: the other fields of a log line stay."""
_ACLS_OFF = "acls-disabled"
_EXPIRED_WORDS = "ACL token expired"
"""What Nomad says with a 500 though the token is wrong, not the agent."""


class TokenError(NodeError):
    """Nomad does not know this token, or not any more."""


class AclsDisabledError(NodeError):
    """Nomad has no ACLs: it knows nobody, and lets everybody do everything."""


class _Link(msgspec.Struct, frozen=True, rename="pascal"):
    id: str = msgspec.field(name="ID", default="")
    name: str = ""


class TokenInfo(msgspec.Struct, frozen=True, rename="pascal"):
    """GET /v1/acl/token/self (structs.ACLToken), without its secret."""

    accessor_id: str = msgspec.field(name="AccessorID", default="")
    name: str = ""
    type: str = ""
    policies: tuple[str, ...] | None = None
    roles: tuple[_Link, ...] | None = None
    expiration_time: datetime | None = None


class _Role(msgspec.Struct, frozen=True, rename="pascal"):
    policies: tuple[_Link, ...] | None = None


class _Policy(msgspec.Struct, frozen=True, rename="pascal"):
    rules: str = ""
    rules_json: Rules | None = msgspec.field(name="RulesJSON", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The owner of a token."""

    name: str
    """The token's name, which whoever has made it chose."""
    accessor_id: str
    acl: Acl = field(repr=False)
    expires_at: datetime | None = None

    @property
    def user(self) -> str:
        """Who it is, for people: two tokens may have one name."""
        return f"{printable(self.name)[:_NAME_MAX_CHARS] or 'token'} ({self.accessor_id[:8]})"


async def identify(api: NomadApi, token: str) -> Identity:
    """Return the owner and the rights of `token`.

    Raises:
        TokenError: it is none, or none that counts any more.
        AclsDisabledError: Nomad has no ACLs. It said so; this is never concluded from an error.
        NomadError: Nomad does not answer, or not so: nobody is let in for that.
    """
    if not _UUID.fullmatch(token.lower()):
        raise TokenError("this is no token of Nomad")
    info = await _token_info(api, token)
    if info.accessor_id == _ACLS_OFF:
        raise AclsDisabledError("Nomad has no ACLs, so a token says nothing")
    if not _UUID.fullmatch(info.accessor_id):
        raise TokenError("this is no token of Nomad")
    acl = MANAGEMENT if info.type == "management" else await _read_acl(api, token, info)
    return Identity(
        name=info.name, accessor_id=info.accessor_id, acl=acl, expires_at=info.expiration_time
    )


async def are_acls_disabled(api: NomadApi) -> bool:
    """Tell whether Nomad says that it has no ACLs.

    Raises:
        NomadError: it says nothing that can be understood.
    """
    try:
        info = await api.get("/v1/acl/token/self", TokenInfo, token=None)
    except NomadRefusedError as exc:
        raise NomadError(str(exc)) from exc
    return info.accessor_id == _ACLS_OFF


async def _token_info(api: NomadApi, token: str) -> TokenInfo:
    try:
        return await api.get("/v1/acl/token/self", TokenInfo, token=token)
    except NomadRefusedError as exc:
        if exc.status in (401, 403, 404) or _EXPIRED_WORDS in exc.words:
            raise TokenError("Nomad does not know this token, or it has expired") from exc
        raise NomadError(str(exc)) from exc


async def _read_acl(api: NomadApi, token: str, info: TokenInfo) -> Acl:
    roles = await _read_all(api, token, "role", (link.id for link in info.roles or ()), _Role)
    names = {*(info.policies or ())}
    for role in roles:
        names.update(link.name for link in role.policies or ())
    policies = await _read_all(api, token, "policy", names, _Policy)
    rules = []
    for policy in policies:
        if policy.rules_json is None and policy.rules:
            # A rule that is not seen may be one that denies.
            raise NomadError("Nomad does not say the rules of a policy in JSON (RulesJSON)")
        rules.append(policy.rules_json or Rules())
    return compile_acl(rules)


async def _read_all(
    api: NomadApi, token: str, what: str, names: Iterable[str], kind: type[T]
) -> list[T]:
    """Return roles or policies. What does not exist grants nothing; every other error is one."""
    listed = sorted(set(names))
    if len(listed) > _POLICIES_MAX:
        raise NomadError(f"the token has more than {_POLICIES_MAX} of {what}")
    found = await asyncio.gather(*(_read(api, token, what, name, kind) for name in listed))
    return [item for item in found if item is not None]


async def _read(api: NomadApi, token: str, what: str, name: str, kind: type[T]) -> T | None:
    try:
        return await api.get(f"/v1/acl/{what}/{quoted(name)}", kind, token=token)
    except NomadRefusedError as exc:
        if exc.status == 404:
            return None
        raise NomadError(str(exc)) from exc
