"""Which ways in the page is told of before anybody has logged in."""

import asyncio

from fakes.console import Clock
from fakes.fake_nomad import FakeNomad

from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.login.oidc import Oidc
from qemu_node.web.access.login.ways import KNOWN_S, Visitor, Ways, WaysIn

HERE = Visitor(address="127.0.0.1", is_local=True)
ELSEWHERE = Visitor(address="10.0.0.1", is_local=False)


async def test_nomad_is_asked_once_however_many_ask() -> None:
    clock = Clock()
    async with FakeNomad.running() as nomad, nomad.api() as api:
        ways = WaysIn(AccessSettings(), api, Oidc(api), clock=clock)
        found = await asyncio.gather(*(ways.find(ELSEWHERE) for _ in range(50)))
        assert set(found) == {Ways(ways=("token", "ott"))}
        assert len(nomad.asked) == 2
        nomad.oidc = {"company": ""}
        clock.pass_s(KNOWN_S)
        assert (await ways.find(ELSEWHERE)).oidc_methods == ("company",)


async def test_without_acls_it_depends_on_where_somebody_is() -> None:
    async with FakeNomad.running() as nomad, nomad.api() as api:
        nomad.has_acls = False
        ways = WaysIn(AccessSettings(), api, Oidc(api), clock=Clock())
        assert (await ways.find(HERE)).ways == ("open",)
        refused = await ways.find(ELSEWHERE)
        assert refused.ways == ()
        assert "ssh -L" in refused.why
        opened = AccessSettings(open_without_acls=True)
        ways = WaysIn(opened, api, Oidc(api), clock=Clock())
        assert (await ways.find(ELSEWHERE)).ways == ("open",)


async def test_an_agent_that_does_not_answer_is_said() -> None:
    async with FakeNomad.running() as nomad, nomad.api() as api:
        nomad.broken = (500, "no leader")
        ways = WaysIn(AccessSettings(), api, Oidc(api), clock=Clock())
        found = await ways.find(HERE)
        assert "open" not in found.ways
        assert "no leader" in found.why


async def test_without_nomad_the_way_is_that_of_node_toml() -> None:
    for auth in ("password", "link", "open"):
        settings = AccessSettings(auth=auth)
        ways = WaysIn(settings, None, None, clock=Clock())
        assert (await ways.find(ELSEWHERE)).ways == (auth,)
