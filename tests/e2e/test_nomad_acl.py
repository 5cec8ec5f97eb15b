"""The console's access against a real Nomad: tokens, their traps, roles, rules.

Its own evaluation of rules is compared with this agent's answers, as with the recorded ones.
"""

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from e2e.acl_agent import AclAgent, running_acl_agent
from e2e.acl_cases import (
    GRANTS,
    NAMESPACES,
    ask_agent,
    chosen_policies,
    policy_text,
    random_policies,
)
from e2e.oidc_provider import auth_method, binding_rule, running_provider

from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.acl.nomadacl import Rules, compile_acl
from qemu_node.web.access.acl.nomadapi import NomadApi, NomadServer
from qemu_node.web.access.acl.nomadtoken import (
    AclsDisabledError,
    TokenError,
    are_acls_disabled,
    identify,
)
from qemu_node.web.access.login.door import Door
from qemu_node.web.access.login.oidc import callback_of
from qemu_node.web.access.login.ways import Visitor
from qemu_node.web.access.session.sessions import Sessions
from qemu_node.web.http.problems import Problem

pytestmark = [
    pytest.mark.needs_nomad,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]

READ, WRITE, DENY = GRANTS[0], GRANTS[1], GRANTS[2]
HERE = Visitor(address="127.0.0.1", is_local=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent() -> AsyncIterator[AclAgent]:
    with tempfile.TemporaryDirectory() as directory:
        async with running_acl_agent(Path(directory)) as agent:
            yield agent


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(agent: AclAgent) -> AsyncIterator[NomadApi]:
    async with NomadApi(NomadServer(address=agent.address)) as api:
        yield api


def make_door(api: NomadApi) -> tuple[Door, Sessions]:
    sessions = Sessions(idle_s=60, age_s=3600)
    return Door(AccessSettings(), sessions, api=api), sessions


async def test_rules_mean_what_this_agent_says(agent: AclAgent) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    cases = [*chosen_policies(), *(random_policies(rng) for _ in range(15))]
    for number, policies in enumerate(cases):
        answer = await ask_agent(agent, number, policies)
        acl = compile_acl(msgspec.convert(rules, Rules) for rules in answer["rules"])
        ours = {
            namespace: {name: acl.allows(namespace, name) for name in asked}
            for namespace, asked in answer["may"].items()
        }
        assert (ours, acl.may_read_node) == (answer["may"], answer["may_read_node"]), (
            seed,
            policies,
        )


async def test_a_token_has_the_rights_of_its_policies_and_roles(
    agent: AclAgent, api: NomadApi
) -> None:
    await agent.write_policy("of-token", policy_text({"dev": READ, "prod": DENY}))
    await agent.write_policy("of-role", policy_text({"web": WRITE, "prod": WRITE}))
    role = await agent.must(
        "POST", "/v1/acl/role", {"Name": "people", "Policies": [{"Name": "of-role"}]}
    )
    made = await agent.make_token(
        Name="anna", Policies=["of-token", "is-not-there"], Roles=[{"ID": role["ID"]}]
    )
    identity = await identify(api, made["SecretID"])
    assert identity.user == f"anna ({made['AccessorID'][:8]})"
    assert identity.acl.allows("dev", "read-job")
    assert not identity.acl.allows("dev", "alloc-exec")
    assert identity.acl.allows("web", "alloc-lifecycle")
    assert not identity.acl.allows("prod", "read-job")
    assert not identity.acl.may_read_node
    asked = await agent.may(made["SecretID"], NAMESPACES)
    assert all(
        identity.acl.allows(namespace, name) is may
        for namespace, names in asked.items()
        for name, may in names.items()
    )


async def test_a_management_token_may_everything(agent: AclAgent, api: NomadApi) -> None:
    identity = await identify(api, agent.management)
    assert identity.acl.is_management
    assert identity.acl.may_read_node


async def test_the_anonymous_policy_adds_nothing_to_a_token(agent: AclAgent, api: NomadApi) -> None:
    await agent.write_policy("anonymous", policy_text({"*": READ}))
    await agent.write_policy("little", policy_text({"dev": READ}))
    token = (await agent.make_token(Policies=["little"]))["SecretID"]
    identity = await identify(api, token)
    assert not identity.acl.allows("web", "read-job")
    assert not (await agent.may(token, ["web"]))["web"]["read-job"]
    assert (await agent.may(None, ["web"]))["web"]["read-job"]
    await agent.must("DELETE", "/v1/acl/policy/anonymous")


@pytest.mark.parametrize(
    "token",
    ["", "x", "00000000-0000-0000-0000-000000000000", "a.b.c", "eyJhbGciOiJub25lIn0.e30."],
)
async def test_what_is_no_token_is_known_as_such(api: NomadApi, token: str) -> None:
    with pytest.raises(TokenError):
        await identify(api, token)


async def test_a_token_that_has_expired_or_was_removed_is_none(
    agent: AclAgent, api: NomadApi
) -> None:
    made = await agent.make_token(Policies=["of-token"], ExpirationTTL="3s")
    assert (await identify(api, made["SecretID"])).expires_at is not None
    removed = await agent.make_token(Policies=["of-token"])
    await agent.must("DELETE", f"/v1/acl/token/{removed['AccessorID']}")
    with pytest.raises(TokenError):
        await identify(api, removed["SecretID"])
    async with asyncio.timeout(60):
        while True:
            try:
                await identify(api, made["SecretID"])
            except TokenError:
                break
            await asyncio.sleep(0.2)


async def test_a_one_time_token_lets_its_maker_in_once(agent: AclAgent, api: NomadApi) -> None:
    made = await agent.make_token(Name="bob", Policies=["of-token"])
    door, sessions = make_door(api)
    session = sessions.find(await door.by_token(made["SecretID"], HERE))
    assert session is not None
    ott = await door.make_one_time_token(session)
    other_door, other_sessions = make_door(api)
    found = other_sessions.find(await other_door.by_one_time_token(ott, HERE))
    assert found is not None
    assert found.user == session.user
    with pytest.raises(Problem) as refused:
        await other_door.by_one_time_token(ott, HERE)
    assert refused.value.status == 401


async def test_the_ways_in_are_those_of_a_nomad_with_acls(api: NomadApi) -> None:
    door, _ = make_door(api)
    assert (await door.ways(HERE)).ways == ("token", "ott")
    with pytest.raises(Problem) as refused:
        await door.openly(HERE)
    assert refused.value.status == 400


async def test_a_login_by_a_provider_that_nomad_does_not_know_is_refused(api: NomadApi) -> None:
    door, _ = make_door(api)
    with pytest.raises(Problem) as refused:
        await door.begin_oidc("nobody", "https://x:5800", HERE)
    assert refused.value.status == 400


async def test_nomad_without_acls_is_known_by_its_own_words() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with (
            running_acl_agent(Path(directory), has_acls=False) as agent,
            NomadApi(NomadServer(address=agent.address)) as api,
        ):
            assert await are_acls_disabled(api)
            with pytest.raises(AclsDisabledError):
                await identify(api, "00000000-0000-0000-0000-000000000000")
            door, sessions = make_door(api)
            assert (await door.ways(HERE)).ways == ("open",)
            elsewhere = Visitor(address="10.0.0.1", is_local=False)
            assert (await door.ways(elsewhere)).ways == ()
            session = sessions.find(await door.openly(HERE))
            assert session is not None
            assert session.is_local
            with pytest.raises(Problem) as refused:
                await door.openly(elsewhere)
            assert refused.value.error == "acls-off"


async def test_whom_a_provider_names_is_logged_in_with_the_rights_of_nomads_binding_rules(
    agent: AclAgent, api: NomadApi, tmp_path: Path
) -> None:
    origin = "https://node1:5800"
    await agent.write_policy("of-admins", policy_text({"dev": WRITE}))
    async with running_provider(tmp_path) as provider:
        method = auth_method(provider, callback_of(origin))
        await agent.must("POST", "/v1/acl/auth-method", method)
        await agent.must("POST", "/v1/acl/binding-rule", binding_rule("of-admins"))
        door, sessions = make_door(api)
        ways = await door.ways(HERE)
        assert ways.ways == ("token", "ott", "oidc")
        assert ways.oidc_methods == ("company",)
        with pytest.raises(Problem) as refused:
            await door.begin_oidc("company", "https://evil.example", HERE)
        assert refused.value.status == 400
        url, secret = await door.begin_oidc("company", origin, HERE)
        state, code = provider.agree(url)
        token = await door.oidc.complete(secret, state=state, code=code, issuer="")
        session = sessions.find(await door.by_token(token, HERE))
        assert session is not None
        assert session.acl.allows("dev", "alloc-exec")
        assert not session.acl.allows("web", "read-job")
        assert sessions.left_s(session) <= 3600
        url, secret = await door.begin_oidc("company", origin, HERE)
        state, _ = provider.agree(url)
        with pytest.raises(Problem) as refused:
            await door.oidc.complete(secret, state=state, code="stolen", issuer="")
        assert refused.value.status == 401
