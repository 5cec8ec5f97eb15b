"""Jobs of VMs under a Nomad agent that has the driver.

Owns the agent's plugin and the job. Does not own what is measured of it.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.rig import procs
from bench.rig.agent import Agent, nomad_agent
from bench.rig.jobtext import job_text
from bench.rig.node import DRIVER_ARGV, TASK_MEMORY_MIB, TASK_NAME, BenchNode
from qemu_node.host.process.identity import ProcessId, command_line, identify

_PLUGIN_CONFIG = """
plugin "vm" {{
  config {{
    config = "{node_toml}"
  }}
}}
"""


@asynccontextmanager
async def vm_agent(nomad: Path, node: BenchNode) -> AsyncGenerator[Agent]:
    """Give an agent that runs the driver on `node`; in the end it is gone.

    Raises:
        TimeoutError: it does not come up, or its driver is not healthy.
    """
    plugin = node.root / "plugins" / "vm"
    plugin.parent.mkdir()
    plugin.write_text(f'#!/bin/sh\nexec {" ".join(DRIVER_ARGV)} "$@"\n')
    plugin.chmod(0o755)
    extra = _PLUGIN_CONFIG.format(node_toml=node.node_toml)
    async with nomad_agent(
        nomad, node.root, driver="vm", data_dir=node.root / "nomad", extra=extra
    ) as agent:
        yield agent


def write_job(node: BenchNode, name: str, *, count: int) -> Path:
    """Write a job of `count` VMs that stay, and return its file."""
    job_file = node.root / f"{name}.nomad.hcl"
    config = f'image = "{node.image}"\nfirmware = "bios"'
    text = job_text(
        name,
        config,
        count=count,
        task=TASK_NAME,
        kill_timeout="1s",
        cpu=100,
        memory_mib=TASK_MEMORY_MIB,
    )
    job_file.write_text(text)
    return job_file


def plugins(agent: Agent) -> list[ProcessId]:
    """Return the plugin processes of an agent: one, but for the moments when it starts another."""
    found = []
    for pid in procs.descendants(agent.child.process.pid):
        process = identify(pid)
        argv = [Path(word).name for word in command_line(pid)[:4]]
        if process is not None and argv[1:] == ["-m", "qemu_node", "driver"]:
            found.append(process)
    return found
