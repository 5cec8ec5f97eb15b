"""Which answers of Nomad are a login, and which are an error of the agent."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes.fake_nomad import READ, FakeNomad, namespaces, token_id

from qemu_node.web.access.acl.nomadapi import NomadApi, NomadError
from qemu_node.web.access.acl.nomadtoken import (
    AclsDisabledError,
    TokenError,
    are_acls_disabled,
    identify,
)

TOKEN = token_id(1)


@pytest.fixture
async def nomad() -> AsyncIterator[FakeNomad]:
    async with FakeNomad.running() as nomad:
        yield nomad


@pytest.fixture
async def api(nomad: FakeNomad) -> AsyncIterator[NomadApi]:
    async with nomad.api() as api:
        yield api


async def test_policies_come_from_the_token_and_its_roles(nomad: FakeNomad, api: NomadApi) -> None:
    nomad.policies = {"a": namespaces(dev=READ), "b": namespaces(web=READ)}
    nomad.roles = {"r1": ["b", "gone"]}
    nomad.add_token(TOKEN, Policies=["a", "gone"], Roles=[{"ID": "r1"}, {"ID": "gone"}])
    identity = await identify(api, TOKEN)
    assert identity.acl.allows("dev", "read-job")
    assert identity.acl.allows("web", "read-job")
    assert not identity.acl.allows("prod", "read-job")


async def test_management_is_not_asked_for_policies(nomad: FakeNomad, api: NomadApi) -> None:
    nomad.add_token(TOKEN, Type="management")
    assert (await identify(api, TOKEN)).acl.is_management
    assert nomad.asked == ["GET /v1/acl/token/self"]


async def test_a_name_is_no_path(nomad: FakeNomad, api: NomadApi) -> None:
    nomad.add_token(TOKEN, Policies=["../token/self?a=b#c"])
    assert not (await identify(api, TOKEN)).acl.allows("dev", "read-job")
    assert nomad.asked[-1] == "GET /v1/acl/policy/../token/self?a=b#c"


@pytest.mark.parametrize("accessor", ["anonymous", "acls-off", "leader", "", "x" * 36])
async def test_an_answer_without_a_tokens_id_is_no_login(
    nomad: FakeNomad, api: NomadApi, accessor: str
) -> None:
    nomad.add_token(TOKEN, AccessorID=accessor, Type="management")
    with pytest.raises(TokenError):
        await identify(api, TOKEN)


async def test_without_acls_no_token_is_one(nomad: FakeNomad, api: NomadApi) -> None:
    nomad.has_acls = False
    with pytest.raises(AclsDisabledError):
        await identify(api, TOKEN)
    assert await are_acls_disabled(api)


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (403, "Permission denied", TokenError),
        (404, "ACL token not found", TokenError),
        (500, "ACL token expired", TokenError),
        (500, "missing key ID header", NomadError),
        (500, "rpc error: No cluster leader", NomadError),
        (429, "too many requests", NomadError),
        (200, "not JSON", NomadError),
        (200, '{"AccessorID": 1}', NomadError),
        (200, "[" * 100_000, NomadError),
        (301, "", NomadError),
    ],
)
async def test_a_wrong_token_and_a_broken_agent_are_told_apart(
    nomad: FakeNomad, api: NomadApi, status: int, text: str, error: type[Exception]
) -> None:
    nomad.broken = (status, text)
    with pytest.raises(error):
        await identify(api, TOKEN)
    with pytest.raises(NomadError):
        await are_acls_disabled(api)


async def test_a_policy_that_cannot_be_read_lets_nobody_in(
    nomad: FakeNomad, api: NomadApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the one that denies."""
    nomad.policies = {"a": namespaces(dev=READ)}
    nomad.add_token(TOKEN, Policies=["a", "b"])
    get = api.get

    async def fail(path: str, kind: type[Any], *, token: str | None) -> Any:
        if path.endswith("/b"):
            nomad.broken = (403, "Permission denied")
        return await get(path, kind, token=token)

    monkeypatch.setattr(api, "get", fail)
    with pytest.raises(NomadError):
        await identify(api, TOKEN)


async def test_rules_that_are_not_in_json_let_nobody_in(nomad: FakeNomad, api: NomadApi) -> None:
    nomad.policies = {"a": None}  # type: ignore[dict-item]
    nomad.add_token(TOKEN, Policies=["a"])
    with pytest.raises(NomadError, match="RulesJSON"):
        await identify(api, TOKEN)
