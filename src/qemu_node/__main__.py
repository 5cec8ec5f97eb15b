"""The entry point of `python -m qemu_node` and of the console script `qemu-node`."""

import sys


def main() -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:]
    if arguments == ["driver"]:
        return _run_driver()
    from qemu_node.cli.main import main as run_command_line

    return run_command_line(arguments)


def _run_driver() -> int:
    """Do what the command `driver` does, in a process that never imports click (1 MiB)."""
    from qemu_node.errors import NodeError

    try:
        from qemu_node.nomad.driver.vmplugin import run_driver

        run_driver(config_path=None, stop_with_parent=False)
    except NodeError as exc:
        from qemu_node.cli.errortext import EXIT_ERROR, show_error

        show_error(exc, ["driver"])
        return EXIT_ERROR
    except KeyboardInterrupt:
        from qemu_node.cli.errortext import EXIT_INTERRUPTED

        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
