"""The entry point of `python -m qemu_node` and of the console script `qemu-node`."""

import sys

from qemu_node.cli.main import main as run_command_line


def main() -> int:
    """Run the command and return its exit code."""
    return run_command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
