"""`qemu-node serve` before a real Nomad with ACLs: who gets in over https, and when it ends."""

import asyncio
import tempfile
from pathlib import Path

import aiohttp
import pytest
from e2e.acl_agent import running_acl_agent
from e2e.acl_cases import policy_text
from e2e.console_daemon import browser, running_daemon

pytestmark = [pytest.mark.needs_nomad, pytest.mark.timeout(600)]

RECHECK_S = 90.0
"""Rights are asked again every 30 s."""


async def status(
    user: aiohttp.ClientSession, method: str, url: str, body: object = None
) -> int | None:
    """Return the status of the answer; None if there is none."""
    origin = "/".join(url.split("/")[:3])
    headers = {"Origin": origin, "X-QN": "1", "Sec-Fetch-Site": "same-origin"}
    try:
        async with user.request(method, url, json=body, headers=headers) as reply:
            return reply.status
    except aiohttp.ClientError:
        return None


async def test_tokens_of_a_real_nomad_open_and_close_the_console() -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "nomad").mkdir()
        async with (
            running_acl_agent(root / "nomad") as agent,
            running_daemon(root, agent.address) as address,
            browser() as anna,
            browser() as bob,
        ):
            await agent.write_policy("see", policy_text({"default": 'policy = "read"'}))
            made = await agent.make_token(Name="anna", Policies=["see"])
            login, session = f"{address}/api/v1/login", f"{address}/api/v1/session"
            node = f"{address}/api/v1/node"
            wrong = {"token": "00000000-0000-0000-0000-000000000000"}
            assert await status(bob, "POST", login, wrong) == 401
            assert await status(bob, "POST", login, {"open": True}) == 400
            assert await status(bob, "GET", session) == 401
            assert await status(anna, "POST", login, {"token": made["SecretID"]}) == 200
            assert await status(anna, "GET", session) == 200
            assert await status(anna, "GET", f"{address}/api/v1/vms") == 200
            assert await status(anna, "GET", node) == 403
            assert await status(bob, "POST", login, {"token": agent.management}) == 200
            assert await status(bob, "GET", node) == 200
            await agent.must("DELETE", f"/v1/acl/token/{made['AccessorID']}")
            async with asyncio.timeout(RECHECK_S):
                while await status(anna, "GET", session) != 401:
                    await asyncio.sleep(1)
            assert await status(bob, "GET", session) == 200
        log = (root / "daemon.log").read_text()
        assert "audit: login" in log
        assert "anna" in log
        assert made["SecretID"] not in log
        assert agent.management not in log
