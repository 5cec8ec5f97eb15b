"""A Nomad agent, server and client in one, on loopback, for benches of whole jobs.

Owns the agent's process, its configuration and the few calls of its API that a bench needs. What
is measured of a job is the same for the driver `vm` and for Nomad's own drivers: `TimedJob`.
"""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from qemu_node.host.process import command, pidfd

T = TypeVar("T")

_WAIT_S = 120.0
_POLL_S = 0.1
AGENT_LOG = "agent.log"

_CONFIG = """
data_dir = "{data_dir}"
plugin_dir = "{plugin_dir}"
bind_addr = "127.0.0.1"
name = "bench"
disable_update_check = true
log_level = "WARN"
advertise {{
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}}
ports {{
  http = {http}
  rpc  = {rpc}
  serf = {serf}
}}
consul {{
  auto_advertise   = false
  server_auto_join = false
  client_auto_join = false
}}
server {{
  enabled          = true
  bootstrap_expect = 1
}}
client {{
  enabled             = true
  servers             = ["127.0.0.1:{rpc}"]
  network_interface   = "lo"
  cpu_total_compute   = 64000
  memory_total_mb     = 131072
  options = {{
    "driver.allowlist"     = "{driver}"
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"
  }}
}}
{extra}
"""


class JobFailedError(Exception):
    """A job whose VMs were to be timed did not start them all."""


class Agent:
    """A running agent."""

    def __init__(self, nomad: Path, address: str, child: command.Child, directory: Path) -> None:
        self.child = child
        self._nomad = nomad
        self._address = address
        self._directory = directory
        self._log = (directory / AGENT_LOG).open(errors="replace")

    def take_log(self) -> list[str]:
        """Return what the agent, and its plugins, have logged since the last call."""
        return self._log.read().splitlines()

    def close(self) -> None:
        """Close its log."""
        self._log.close()

    async def run_job(self, job_file: Path) -> float:
        """Run `nomad job run` and return the Unix time at which it was started.

        Raises:
            ProcessError: the job was refused.
        """
        begin = time.time()
        env = {**command.SAFE_ENV, "NOMAD_ADDR": self._address, "HOME": str(self._directory)}
        _ = await command.run([str(self._nomad), "job", "run", "-detach", str(job_file)], env=env)
        return begin

    async def why_failed(self, job_id: str) -> str | None:
        """Return what the tasks of a job's failed allocations were told, None where none failed."""
        allocations = await self._request("GET", f"/v1/job/{job_id}/allocations")
        words = [
            event["DisplayMessage"]
            for allocation in allocations
            if allocation["ClientStatus"] == "failed"
            for task in (allocation["TaskStates"] or {}).values()
            for event in task["Events"]
        ]
        return "; ".join(words) or None

    async def stop_job(self, job_id: str) -> None:
        """Stop a job; return when its allocations have ended."""
        await self._request("DELETE", f"/v1/job/{job_id}")

        async def running() -> list[str]:
            allocations = await self._request("GET", f"/v1/job/{job_id}/allocations")
            return [a["ID"] for a in allocations if a["ClientStatus"] in ("pending", "running")]

        await until(running, lambda ids: not ids, f"end of job {job_id}")

    async def driver_is_healthy(self, driver: str) -> bool:
        """Tell whether the node may be given tasks of `driver`."""
        try:
            nodes = await self._request("GET", "/v1/nodes")
            if not nodes:
                return False
            node = await self._request("GET", f"/v1/node/{nodes[0]['ID']}")
        except aiohttp.ClientError:
            return False
        health = (node["Drivers"] or {}).get(driver) or {}
        return node["Status"] == "ready" and bool(health.get("Healthy"))

    async def _request(self, method: str, path: str) -> Any:
        timeout = aiohttp.ClientTimeout(total=30)
        async with (
            aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
            session.request(method, self._address + path) as response,
        ):
            return json.loads(await response.text() or "null")


@asynccontextmanager
async def nomad_agent(
    nomad: Path, directory: Path, *, driver: str, data_dir: Path, extra: str = ""
) -> AsyncGenerator[Agent]:
    """Give an agent whose node may be given tasks of `driver`; in the end it is gone.

    Args:
        nomad: The binary.
        directory: Where its configuration and log are; its plugins are in `plugins` there.
        driver: The one driver it loads.
        data_dir: Nomad's state and the allocations.
        extra: More of the configuration, HCL.

    Raises:
        TimeoutError: it does not come up; its log is in the message.
    """
    http, rpc, serf = _free_ports(3)
    config = directory / "agent.hcl"
    plugin_dir = directory / "plugins"
    plugin_dir.mkdir(exist_ok=True)
    config.write_text(
        _CONFIG.format(
            data_dir=data_dir, plugin_dir=plugin_dir, driver=driver, extra=extra,
            http=http, rpc=rpc, serf=serf,
        )
    )  # fmt: skip
    log = directory / AGENT_LOG
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        child = command.spawn(
            [str(nomad), "agent", f"-config={config}"],
            stderr_fd=log_fd,
            env={**os.environ, "HOME": str(directory)},
        )
    finally:
        os.close(log_fd)
    agent = Agent(nomad, f"http://127.0.0.1:{http}", child, directory)
    try:
        try:
            await until(lambda: agent.driver_is_healthy(driver), bool, f"healthy driver {driver}")
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}; the agent said: {log.read_text()[-1000:]}") from None
        yield agent
    finally:
        pidfd.send_signal(child.process, signal.SIGTERM)
        await pidfd.wait_gone(child.process)
        child.exit_status()
        agent.close()


async def until(probe: Callable[[], Awaitable[T]], accept: Callable[[T], bool], what: str) -> T:
    """Return the first answer of `probe` that `accept` takes.

    Raises:
        TimeoutError: there was none for two minutes; the last is in the message.
    """
    deadline = time.monotonic() + _WAIT_S
    while not accept(last := await probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {_WAIT_S:g} s; last: {last!r}")
        await asyncio.sleep(_POLL_S)
    return last


def _free_ports(count: int) -> list[int]:
    """Return ports of loopback that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedJob:
    """One run of a job: how long after `nomad job run` each of its VMs was there."""

    delays_s: tuple[float, ...]
    """Seconds, first VM first."""

    @property
    def last_to_first(self) -> float:
        """How much later the last VM came than the first, as a ratio."""
        return self.delays_s[-1] / self.delays_s[0]


async def time_job(
    agent: Agent, job_file: Path, job_id: str, made_at: Callable[[], list[float]], count: int
) -> TimedJob:
    """Run a job and return when its VMs were there.

    Args:
        agent: Where it runs.
        job_file: The job, of the id `job_id`.
        job_id: Its id.
        made_at: Returns the Unix times at which the VMs so far were there.
        count: How many VMs the job has.

    Raises:
        JobFailedError: a VM did not start.
        TimeoutError: they are not there after two minutes.
    """

    async def probe() -> list[float]:
        reason = await agent.why_failed(job_id)
        if reason is not None:
            raise JobFailedError(f"job {job_id} failed: {reason}")
        return made_at()

    begin = await agent.run_job(job_file)
    times = await until(probe, lambda found: len(found) == count, f"{count} VMs of {job_id}")
    return TimedJob(delays_s=tuple(sorted(moment - begin for moment in times)))
