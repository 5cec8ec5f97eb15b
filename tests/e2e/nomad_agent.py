"""A real Nomad agent, server and client in one, on loopback, with the plugin of this tree."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from qemu_node.host.process import command, identity, pidfd
from qemu_node.host.process.command import Child, Completed

WAIT_S = 120.0
HEALTHY_TIMEOUT_S = 300.0
"""The driver first sees a guest run, which takes long where TCG runs under TCG."""
POLL_S = 0.25
_LOG_TAIL_CHARS = 8000

LOOPBACK = """
bind_addr = "127.0.0.1"
advertise {{
  http = "127.0.0.1"
  rpc = "127.0.0.1"
  serf = "127.0.0.1"
}}
ports {{
  http = {http}
  rpc = {rpc}
  serf = {serf}
}}
"""
"""An agent of a test listens on ports of its own."""

_CONFIG = (
    LOOPBACK
    + """
data_dir = "{data}"
name = "lab"
disable_update_check = true
disable_anonymous_signature = true
log_level = "DEBUG"
plugin_dir = "{plugins}"
consul {{
  auto_advertise = false
  server_auto_join = false
  client_auto_join = false
}}
telemetry {{
  publish_allocation_metrics = true
  collection_interval = "1s"
}}
server {{
  enabled = true
  bootstrap_expect = 1
}}
client {{
  enabled = true
  servers = ["127.0.0.1:{rpc}"]
  network_interface = "lo"
  cpu_total_compute = 8000
  memory_total_mb = 16384
  options = {{
    "driver.allowlist" = "vm,raw_exec"
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"
  }}
}}
plugin "raw_exec" {{
  config {{
    enabled = true
  }}
}}
plugin "vm" {{
  config {{
    config = "{node_toml}"
  }}
}}
"""
)


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class NomadAgent:
    """One agent over its restarts; its data stays in `directory`."""

    def __init__(self, directory: Path, node_toml: Path, *, has_acls: bool = False) -> None:
        self.directory = directory
        self.token: str | None = None
        """Of its operator; None: it has no ACLs, or was not started yet."""
        self._has_acls = has_acls
        self.log = directory / "agent.log"
        http, rpc, serf = free_ports(3)
        self.address = f"http://127.0.0.1:{http}"
        plugins = directory / "plugins"
        plugins.mkdir(parents=True)
        plugin = plugins / "vm"
        modules = ":".join(filter(None, sys.path))
        plugin.write_text(
            f"#!/bin/sh\nexport PYTHONPATH={modules}\n"
            f'exec {sys.executable} -m qemu_node driver "$@"\n'
        )
        plugin.chmod(0o755)
        self._config = directory / "agent.hcl"
        self._config.write_text(
            _CONFIG.format(
                data=directory / "data",
                plugins=plugins,
                node_toml=node_toml,
                http=http,
                rpc=rpc,
                serf=serf,
            )
            + ("acl {\n  enabled = true\n}\n" if has_acls else "")
        )
        self._child: Child | None = None

    async def start(self, *, is_healthy: bool = True) -> Any:
        """Start the agent; return what its node says of the driver once it is as expected.

        Args:
            is_healthy: The driver will be healthy; else, the node being ready, that it is not.
        """
        log_fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._child = command.spawn(
                [os.environ["NOMAD"], "agent", f"-config={self._config}"],
                stderr_fd=log_fd,
                env={**command.SAFE_ENV, "HOME": str(self.directory)},
            )
        finally:
            os.close(log_fd)
        try:
            if self._has_acls and self.token is None:
                self.token = await self._bootstrap()
            return await self.until_healthy(is_healthy=is_healthy)
        except AssertionError as exc:
            log = self.log.read_text(errors="replace")[-_LOG_TAIL_CHARS:]
            raise AssertionError(f"{exc}\n{log}") from exc

    async def _bootstrap(self) -> str:
        """Return the secret of the first token."""
        answer = await self.until(
            lambda: self.post("/v1/acl/bootstrap", {}), lambda _: True, "first token"
        )
        return str(answer["SecretID"])

    async def until_healthy(self, *, is_healthy: bool = True) -> Any:
        """Return what the node says of the driver once that is healthy, or is not."""
        return await self.until(
            self._driver,
            lambda driver: driver.get("Detected") and driver["Healthy"] is is_healthy,
            f"a driver that is {'' if is_healthy else 'not '}healthy",
            timeout_s=HEALTHY_TIMEOUT_S,
        )

    async def _driver(self) -> Any:
        """Return what the node says of the driver; empty while it is not ready."""
        nodes = await self.get("/v1/nodes")
        if not nodes:
            return {}
        node = await self.get(f"/v1/node/{nodes[0]['ID']}")
        return (node["Drivers"] or {}).get("vm") or {} if node["Status"] == "ready" else {}

    async def stop(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """End the agent; its plugin and the VMs are not touched by us."""
        child = self._child
        if child is None or child.exit_status() is not None:
            return
        pidfd.send_signal(child.process, signum)
        async with asyncio.timeout(WAIT_S):
            await pidfd.wait_gone(child.process)
        child.exit_status()
        self._child = None

    def plugin(self) -> identity.ProcessId:
        """Return the plugin process that serves this agent's tasks."""
        wanted = str(self.directory)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            argv = identity.command_line(int(entry.name))
            if argv[1:4] == ["-m", "qemu_node", "driver"] and wanted in _environ(entry):
                found = identity.identify(int(entry.name))
                if found is not None:
                    return found
        raise AssertionError("no plugin process")

    async def get(self, path: str) -> Any:
        """Return the JSON that the API answers."""
        return await self._request("GET", path)

    async def post(self, path: str, body: object) -> Any:
        """Return the JSON that the API answers."""
        return await self._request("POST", path, body)

    async def delete(self, path: str) -> Any:
        """Return the JSON that the API answers."""
        return await self._request("DELETE", path)

    async def _request(self, method: str, path: str, body: object = None) -> Any:
        headers = {"X-Nomad-Token": self.token} if self.token is not None else {}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(
                method, self.address + path, json=body, timeout=aiohttp.ClientTimeout(total=30)
            ) as response,
        ):
            text = await response.text()
            if response.status >= 400:
                raise AssertionError(f"{method} {path}: {response.status} {text}")
            return json.loads(text) if text else None

    async def until(
        self,
        probe: Callable[[], Any],
        accept: Callable[[Any], bool],
        what: str,
        *,
        timeout_s: float = WAIT_S,
        poll_s: float = POLL_S,
    ) -> Any:
        """Return the first answer of `probe` that `accept` takes; its last one is in the error."""
        last: object = None
        deadline = asyncio.get_running_loop().time() + timeout_s
        while asyncio.get_running_loop().time() < deadline:
            try:
                last = await probe()
                if accept(last):
                    return last
            except (aiohttp.ClientError, TimeoutError, AssertionError) as exc:
                last = exc
            await asyncio.sleep(poll_s)
        raise AssertionError(f"no {what} within {timeout_s:g} s; last: {last}")

    async def command(self, *argv: str, timeout_s: float = 60.0) -> Completed:
        """Run the `nomad` command against this agent."""
        return await command.run(
            [os.environ["NOMAD"], *argv],
            env={**command.SAFE_ENV, "NOMAD_ADDR": self.address, "HOME": str(self.directory)},
            timeout_s=timeout_s,
            check=False,
        )

    def spawn(self, *argv: str) -> Child:
        """Start the `nomad` command against this agent; its end is the caller's."""
        env = {**command.SAFE_ENV, "NOMAD_ADDR": self.address, "HOME": str(self.directory)}
        log_fd = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            return command.spawn([os.environ["NOMAD"], *argv], stderr_fd=log_fd, env=env)
        finally:
            os.close(log_fd)

    async def run_job(self, text: str) -> str:
        """Submit the job `text`, HCL, and return its id."""
        job = await self.post("/v1/jobs/parse", {"JobHCL": text, "Canonicalize": True})
        await self.post(f"/v1/jobs?namespace={job['Namespace']}", {"Job": job})
        return str(job["ID"])

    async def events(self, alloc_id: str, task: str, *, namespace: str = "default") -> list[str]:
        """Return what `nomad alloc status` tells of a task, oldest first."""
        allocation = await self.get(f"/v1/allocation/{alloc_id}?namespace={namespace}")
        state = (allocation["TaskStates"] or {}).get(task) or {"Events": []}
        return [event["DisplayMessage"] for event in state["Events"]]

    async def services(self, name: str) -> list[Any]:
        """Return what is registered under a service's name."""
        return list(await self.get(f"/v1/service/{name}"))

    async def check(self, alloc_id: str, name: str) -> Any:
        """Return the latest result of a check of a service; {} before there is one."""
        checks = await self.get(f"/v1/client/allocation/{alloc_id}/checks")
        return next((check for check in checks.values() if check["Check"] == name), {})

    async def allocations(self, job_id: str, *, namespace: str = "default") -> list[Any]:
        """Return the allocations of a job, oldest first."""
        allocations = await self.get(f"/v1/job/{job_id}/allocations?namespace={namespace}")
        return sorted(allocations, key=lambda allocation: allocation["CreateIndex"])

    async def running_allocations(
        self, job_id: str, count: int = 1, *, timeout_s: float = WAIT_S, poll_s: float = POLL_S
    ) -> list[Any]:
        """Return the allocations of a job once `count` of them run."""
        return list(
            await self.until(
                lambda: self.allocations(job_id),
                lambda all_: sum(a["ClientStatus"] == "running" for a in all_) == count,
                f"{count} running allocations of {job_id}",
                timeout_s=timeout_s,
                poll_s=poll_s,
            )
        )

    async def failed_allocation(self, job_id: str, *, namespace: str = "default") -> Any:
        """Return the only allocation of a job once it has failed."""
        (allocation,) = await self.until(
            lambda: self.allocations(job_id, namespace=namespace),
            lambda all_: bool(all_) and all_[0]["ClientStatus"] == "failed",
            f"failed allocation of {job_id}",
        )
        return allocation

    async def stop_job(self, job_id: str, *, namespace: str = "default") -> None:
        """Stop a job and wait until its allocations have ended."""
        allocations = await self.allocations(job_id, namespace=namespace)
        await self.delete(f"/v1/job/{job_id}?namespace={namespace}")
        for allocation in allocations:
            await self.until(
                lambda allocation=allocation: self.get(  # type: ignore[misc]
                    f"/v1/allocation/{allocation['ID']}?namespace={namespace}"
                ),
                lambda a: a["ClientStatus"] in ("complete", "failed", "lost"),
                f"end of allocation {allocation['ID']}",
            )

    async def stop_jobs(self) -> None:
        """Stop all jobs that there are, in all namespaces."""
        for job in await self.get("/v1/jobs?namespace=*"):
            await self.stop_job(job["ID"], namespace=job["Namespace"])


def _environ(entry: Path) -> str:
    try:
        return (entry / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""
