"""The cluster's lock for automatic upgrades, in a real Nomad server with ACLs."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from e2e.nomad_agent import LOOPBACK, POLL_S, WAIT_S, free_ports

from qemu_node.errors import NodeError
from qemu_node.host.process import command, pidfd
from qemu_node.nodeos.agent.client import LocalAgent
from qemu_node.nodeos.agent.config import AgentConfig
from qemu_node.nodeos.rollout.lock import Phase, Rollout, RolloutLock, ended, taken

pytestmark = pytest.mark.needs_nomad

_PAGE = Path(__file__).parents[2] / "docs/os-upgrade.md"
_CONFIG = (
    LOOPBACK
    + """
data_dir = "{data}"
disable_update_check = true
server {{
  enabled          = true
  bootstrap_expect = 1
}}
acl {{
  enabled = true
}}
"""
)


@pytest.fixture
async def http_port(tmp_path: Path) -> AsyncIterator[int]:
    """A server with a leader; its log is kept with a failure."""
    http, rpc, serf = free_ports(3)
    config = tmp_path / "server.hcl"
    data = tmp_path / "data"
    config.write_text(_CONFIG.format(data=data, http=http, rpc=rpc, serf=serf))
    log = os.open(tmp_path / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        child = command.spawn(
            [os.environ["NOMAD"], "agent", f"-config={config}"],
            stderr_fd=log,
            env={**command.SAFE_ENV, "HOME": str(tmp_path)},
        )
    finally:
        os.close(log)
    try:
        yield http
    finally:
        with pidfd.Hold(child.process) as hold:
            hold.send(signal.SIGKILL)
            await hold.wait_gone()
        child.exit_status()


async def _ask(port: int, method: str, path: str, body: object, token: str = "") -> Any:
    async with (
        aiohttp.ClientSession(headers={"X-Nomad-Token": token}) as session,
        session.request(method, f"http://127.0.0.1:{port}{path}", json=body) as answer,
    ):
        text = await answer.text()
        assert answer.status == 200, text
        return await answer.json(content_type=None) if text else None


async def _bootstrap(port: int) -> str:
    """Return the first management token, once there is a leader and it can encrypt variables."""
    root = (await _until(port, "POST", "/v1/acl/bootstrap", None))["SecretID"]
    await _until(port, "PUT", "/v1/var/ready", {"Items": {"a": "b"}}, root)
    return str(root)


async def _until(port: int, method: str, path: str, body: object, token: str = "") -> Any:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while True:
        try:
            return await _ask(port, method, path, body, token)
        except (aiohttp.ClientError, AssertionError):
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(POLL_S)


def _lock(port: int, token: str, path: str = "qemu-node/os") -> RolloutLock:
    return RolloutLock(LocalAgent(AgentConfig(http_port=port), token), path)


async def test_the_policy_of_the_page_gives_a_node_its_turn(http_port: int) -> None:
    root = await _bootstrap(http_port)
    match = re.search(r"<<'EOF'\n(.*?)^EOF$", _PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert match is not None
    policy = {"Name": "os-upgrade", "Rules": match[1]}
    await _ask(http_port, "POST", "/v1/acl/policy/os-upgrade", policy, root)
    wanted = {"Name": "os", "Type": "client", "Policies": ["os-upgrade"]}
    token = (await _ask(http_port, "POST", "/v1/acl/token", wanted, root))["SecretID"]

    with pytest.raises(NodeError, match="may not use the Nomad variable"):
        await _lock(http_port, "").read()
    with pytest.raises(NodeError, match="may not use the Nomad variable"):
        await _lock(http_port, token, "qemu-node/other").write(Rollout())

    first, second = _lock(http_port, token), _lock(http_port, token)
    assert await first.read() == Rollout()
    assert await second.read() == Rollout()
    mine = taken("node1", "id1", "v2", "sha256:new")
    assert await first.write(mine)
    assert not await second.write(taken("node2", "id2", "v2", "sha256:new"))
    assert (await second.read()).node == "node1"
    assert await first.write(ended(mine, Phase.HALTED, "it did not boot"))
    halted = await second.read()
    assert (halted.phase, halted.digest, halted.reason) == (
        Phase.HALTED, "sha256:new", "it did not boot",
    )  # fmt: skip
    assert await second.write(Rollout())
