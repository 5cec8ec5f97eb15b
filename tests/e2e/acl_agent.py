"""A real Nomad server with ACLs on loopback, and what it says that a token may do."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from e2e.nomad_agent import LOOPBACK, WAIT_S, free_ports

from qemu_node.host.process import command, pidfd

_CONFIG = (
    LOOPBACK
    + """
data_dir = "{data}"
disable_update_check = true
disable_anonymous_signature = true
consul {{
  auto_advertise = false
  server_auto_join = false
  client_auto_join = false
}}
server {{
  enabled = true
  bootstrap_expect = 1
}}
acl {{
  enabled = {has_acls}
  token_min_expiration_ttl = "1s"
}}
"""
)

Asked = Mapping[str, bool]


@dataclass
class AclAgent:
    """The API of one."""

    address: str
    http: aiohttp.ClientSession
    management: str = ""
    """The secret of the first token."""

    async def ask(
        self, method: str, path: str, body: object = None, *, token: str | None = None
    ) -> tuple[int, Any]:
        """Return the status and the JSON, or the text, of an answer."""
        headers = {} if token is None else {"X-Nomad-Token": token}
        async with self.http.request(
            method, self.address + path, json=body, headers=headers
        ) as reply:
            text = await reply.text()
            try:
                return reply.status, json.loads(text)
            except ValueError:
                return reply.status, text

    async def must(self, method: str, path: str, body: object = None) -> Any:
        """Return the answer to what the operator asks."""
        status, answer = await self.ask(method, path, body, token=self.management)
        assert status == 200, (method, path, status, answer)
        return answer

    async def write_policy(self, name: str, rules: str) -> Any:
        """Write a policy and return it as Nomad reads it, its rules in JSON."""
        await self.must("POST", f"/v1/acl/policy/{name}", {"Name": name, "Rules": rules})
        return (await self.must("GET", f"/v1/acl/policy/{name}"))["RulesJSON"]

    async def make_token(self, **members: object) -> dict[str, Any]:
        """Return a new token; a client's, if `members` do not say otherwise."""
        body = {"Name": "test", "Type": "client"} | members
        made: dict[str, Any] = await self.must("POST", "/v1/acl/token", body)
        return made

    async def may(self, token: str | None, namespaces: Iterable[str]) -> dict[str, Asked]:
        """Return what Nomad lets this token do in namespaces, which need not exist."""
        return {
            namespace: {
                "read-job": await self._may(
                    token, "GET", f"/v1/job/none?namespace={namespace}", None
                ),
                "scale-job": await self._may(
                    token,
                    "POST",
                    f"/v1/job/none/scale?namespace={namespace}",
                    {"Target": {"Group": "g"}, "Count": 1},
                ),
            }
            for namespace in namespaces
        }

    async def may_read_node(self, token: str | None) -> bool:
        """Return whether Nomad lets this token read nodes."""
        return await self._may(token, "GET", "/v1/nodes", None)

    async def _may(self, token: str | None, method: str, path: str, body: object) -> bool:
        status, answer = await self.ask(method, path, body, token=token)
        if status == 403 and answer == "Permission denied":
            return False
        # There is no such job, which nobody is told who may not read it.
        assert status in (200, 404) or "not found" in str(answer), (path, status, answer)
        return True


@contextlib.asynccontextmanager
async def running_acl_agent(directory: Path, *, has_acls: bool = True) -> AsyncGenerator[AclAgent]:
    """Return one that answers; it ends with the block."""
    http, rpc, serf = free_ports(3)
    config = directory / "agent.hcl"
    config.write_text(
        _CONFIG.format(
            data=directory / "data",
            http=http,
            rpc=rpc,
            serf=serf,
            has_acls="true" if has_acls else "false",
        )
    )
    log_fd = os.open(directory / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        child = command.spawn(
            [os.environ["NOMAD"], "agent", f"-config={config}"],
            stderr_fd=log_fd,
            env={**command.SAFE_ENV, "HOME": str(directory)},
        )
    finally:
        os.close(log_fd)
    try:
        async with aiohttp.ClientSession() as session:
            agent = AclAgent(f"http://127.0.0.1:{http}", session)
            async with asyncio.timeout(WAIT_S):
                if has_acls:
                    agent.management = await _bootstrap(agent)
                else:
                    while await _status(agent, "/v1/status/leader") != 200:
                        await asyncio.sleep(0.25)
            yield agent
    finally:
        if child.exit_status() is None:
            pidfd.send_signal(child.process, signal.SIGTERM)
            async with asyncio.timeout(WAIT_S):
                await pidfd.wait_gone(child.process)
            child.exit_status()


async def _bootstrap(agent: AclAgent) -> str:
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            status, answer = await agent.ask("POST", "/v1/acl/bootstrap")
            if status == 200:
                return str(answer["SecretID"])
        await asyncio.sleep(0.25)


async def _status(agent: AclAgent, path: str) -> int:
    try:
        return (await agent.ask("GET", path))[0]
    except aiohttp.ClientError:
        return 0
