"""A node under a real Nomad agent: the driver's directories and settings, and the agent's life.

Owns node.toml and what is left when no VM is. Does not own the agent (`nomad_agent`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from e2e.nomad_agent import NomadAgent

from qemu_node.vm.record.record import VMRecord

VM_JOB = """
job "web" {{
  group "g" {{
    task "vm" {{
      driver       = "vm"
      kill_timeout = "5s"

      config {{
        image    = "{image}"
        firmware = "bios"
        network {{
          mode = "user"
        }}
      }}

      resources {{
        cpu    = 200
        memory = 512
      }}
    }}
  }}
}}
"""
"""A job of one VM with user-mode network and little firmware; `image` is to be filled in."""


class Node:
    """The directories of the driver under test."""

    def __init__(self, root: Path, image: Path, *, more: str = "") -> None:
        """Make the settings of a node in `root` whose jobs may name what is beside `image`.

        Args:
            root: Where its directories are; short, because of the sockets.
            image: The image of its guests.
            more: What else node.toml says.
        """
        self.root = root
        self.run = root / "r"
        self.data = root / "d"
        self.node_toml = root / "node.toml"
        self.node_toml.write_text(
            f'[paths]\nrun = "{self.run}"\ndata = "{self.data}"\n'
            f'[images]\nimage_paths = ["{image.parent}"]\n{more}'
        )

    def records(self) -> list[VMRecord]:
        """Return what is written down of each VM."""
        return [
            msgspec.json.decode(path.read_bytes(), type=VMRecord)
            for path in sorted(self.run.glob("vm/*/vm.json"))
        ]

    def leftovers(self) -> list[Path]:
        """Everything that should be gone when no VM is left."""
        patterns = ("vm/*", "vm/.uid/*")
        return [
            path
            for root in (self.run, self.data)
            for p in patterns
            for path in root.glob(p)
            if path.name != ".uid"
        ]


@asynccontextmanager
async def running_agent(node: Node, *, has_acls: bool = False) -> AsyncIterator[NomadAgent]:
    """Run an agent on `node`; its jobs are stopped before it is."""
    agent = NomadAgent(node.root / "nomad", node.node_toml, has_acls=has_acls)
    try:
        await agent.start()
        try:
            yield agent
        finally:
            await agent.stop_jobs()
    finally:
        await agent.stop()
