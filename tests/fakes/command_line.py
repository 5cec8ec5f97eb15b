"""`qemu-node vm` on directories of a test's own."""

import asyncio
from pathlib import Path
from typing import Any

from fakes.published import make_record, publish
from qemu_node.cli.main import main
from qemu_node.config.node import Paths
from qemu_node.vm.record.record import VMRecord


class Node:
    """A node's directories and the command line on it."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(run=str(root / "r"), data=str(root / "d"))
        self.config = root / "node.toml"
        self.config.write_text(f'[paths]\nrun = "{root}/r"\ndata = "{root}/d"\n')

    def publish(self, **changes: Any) -> VMRecord:
        record = make_record(self.paths, **changes)
        publish(self.paths, record)
        return record

    def vm(self, *arguments: str) -> int:
        return main(["--config", str(self.config), "vm", *arguments])

    async def vm_beside_peers(self, *arguments: str) -> int:
        """Run the command in a thread, so that this test's loop and the fakes on it go on."""
        return await asyncio.to_thread(self.vm, *arguments)
