"""A reader that is gone, as `head` is after its lines, is no fault of a command."""

import os
import sys
from pathlib import Path

import pytest
from fakes.command_line import Node

from qemu_node.host.process import command

# The reader ends at once, long before Python has begun.
PIPE = """exec 3>&1; "$@" 2>&3 | true"""


@pytest.fixture
def node(short_tmp_path: Path) -> Node:
    node = Node(short_tmp_path)
    record = node.publish()
    logs = Path(record.alloc_dir) / "alloc" / "logs"
    logs.mkdir(parents=True)
    # More than any buffer or pipe holds.
    (logs / "web.stdout.0").write_bytes(b"a line of a guest\n" * 100_000)
    return node


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "completion bash",
        "config check --json",
        "config show",
        "config show --json",
        "image gc --json",
        "image list --json",
        "image verify --json",
        "vm list",
        "vm list --json",
        "vm list --wide --json",
        "vm show web",
        "vm show web --json",
        "vm logs web",
        "vm logs --raw web",
    ],
)
async def test_a_reader_that_is_gone_leaves_no_traceback(node: Node, arguments: str) -> None:
    program = [sys.executable, "-m", "qemu_node", "--config", str(node.config)]
    argv = ["sh", "-c", PIPE, "sh", *program, *arguments.split()]
    done = await command.run(argv, timeout_s=60, env=dict(os.environ), check=False)
    for fault in (b"Traceback", b"BrokenPipe", b"Broken pipe", b"Exception ignored"):
        assert fault not in done.stdout
