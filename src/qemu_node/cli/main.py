"""`qemu-node`: the group of all commands.

Owns the table of commands, the global options, and which exit status an error has. Each command
lives in a module of its own; what an error looks like is `errortext`.
"""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qemu_node.cli.errortext import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    PROGRAM,
    show_error,
    show_usage_error,
)
from qemu_node.cli.lazy import LazyCommand, LazyGroup
from qemu_node.errors import NodeError
from qemu_node.version import VERSION

if TYPE_CHECKING:
    from qemu_node.config.node import ConfigFile, NodeConfig


def _is_no_node_os() -> bool:
    """Tell whether this system is no image of ours, so that `qemu-node os` is of no use."""
    from qemu_node.nodeos.paths import NodePaths
    from qemu_node.nodeos.release import read_release

    return not read_release(NodePaths()).is_node_os


_COMMANDS = {
    "run": LazyCommand("qemu_node.cli.run", "run", "Run a job file's VMs on this machine."),
    "vm": LazyCommand(
        "qemu_node.cli.vm.commands", "vm", "List, show, use and stop this machine's VMs."
    ),
    "image": LazyCommand("qemu_node.cli.image.commands", "image", "Manage the image cache."),
    "serve": LazyCommand(
        "qemu_node.cli.serve", "serve", "Serve the web console and API of this node."
    ),
    "doctor": LazyCommand(
        "qemu_node.cli.doctor.command", "doctor", "Check what VMs need; say what to do about it."
    ),
    "config": LazyCommand("qemu_node.cli.config", "config", "Check and show the node's settings."),
    "os": LazyCommand(
        "qemu_node.cli.nodeos.group",
        "os_",
        "Manage this node's operating system.",
        is_hidden=_is_no_node_os,
        works_on="Only on a node that runs the project's own operating system.",
    ),
    "driver": LazyCommand(
        "qemu_node.cli.main", "driver", "The task driver plugin; started by Nomad."
    ),
    "completion": LazyCommand(
        "qemu_node.cli.main", "completion", "Print a script for shell completion."
    ),
}
_EXAMPLES = """\b
Examples:
  qemu-node doctor
  qemu-node run examples/debian.nomad.hcl -var image=/srv/debian.qcow2
  qemu-node run --logs web.nomad.hcl
  qemu-node vm list --json
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The global options, as click's context object."""

    config_path: Path | None
    arguments: tuple[str, ...] = ()
    """The whole command line, to be shown again."""

    @classmethod
    def of(cls, ctx: click.Context) -> "App":
        """Return the options given so far: for completion, which calls no command."""
        return cls(config_path=ctx.find_root().params.get("config_path"))

    def load_config(self) -> "NodeConfig":
        """Return the settings of `load_file`."""
        return self.load_file().config

    def load_file(self) -> "ConfigFile":
        """Return node.toml.

        Raises:
            ConfigError: it cannot be read or is wrong; the message names the line.
        """
        from qemu_node.config.node import SettingError, load_file

        try:
            return load_file(self.config_path)
        except SettingError as exc:
            from qemu_node.config.wrongline import with_line

            raise with_line(exc) from exc


pass_app = click.make_pass_decorator(App)

_RESTART_MAX_S = 10.0
"""A plugin gives cancelled calls 1.2 s to undo their work."""


@click.command(
    cls=LazyGroup,
    table=_COMMANDS,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, readable=False, path_type=Path),
    metavar="PATH",
    help="The node's settings; default: $QEMU_NODE_CONFIG, else /etc/qemu-node/node.toml.",
)
@click.option("-v", "--verbose", count=True, help="Print more on stderr; -vv prints all.")
@click.version_option(VERSION, prog_name=PROGRAM)
@click.pass_context
def cli(ctx: click.Context, config_path: Path | None, verbose: int) -> None:
    """Compute-only QEMU virtual machines, under Nomad or by themselves."""
    _set_up_logging(verbose)
    ctx.obj = App(config_path=config_path, arguments=ctx.obj or ())


@click.command(
    help="""Serve the task driver plugin; Nomad starts this.

    With --restart: end the plugins that the agents of this machine have started. An agent starts
    its plugin again at once, and running VMs go on. The new plugin reads node.toml again, and
    has the version that is installed now."""
)
@click.option("--restart", is_flag=True, help="Make Nomad start its plugin again.")
@click.option(
    "--stop-with-parent",
    is_flag=True,
    help="Stop all VMs and exit when stdin ends; for `qemu-node run`.",
)
@pass_app
def driver(app: App, restart: bool, stop_with_parent: bool) -> None:
    """Serve the plugin, or have it restarted."""
    if restart:
        _restart_plugins(app)
        return
    from qemu_node.nomad.driver.vmplugin import run_driver

    run_driver(config_path=app.config_path, stop_with_parent=stop_with_parent)


def _restart_plugins(app: App) -> None:
    """End the plugins of Nomad's agents."""
    import asyncio

    from qemu_node.errors import AS_ROOT, HostError
    from qemu_node.nomad.driver.vmplugin import run_dirs
    from qemu_node.nomad.plugin.running import end_plugins, find_plugins

    if os.geteuid() != 0:
        raise HostError("the plugins of Nomad are root's", hint=AS_ROOT)
    found = {
        plugin for directory in run_dirs(app.config_path) for plugin in find_plugins(directory)
    }
    left = asyncio.run(end_plugins(sorted(found, key=lambda p: p.pid), timeout_s=_RESTART_MAX_S))
    if left:
        pids = ", ".join(str(plugin.pid) for plugin in left)
        raise HostError(
            f"the driver has not ended in {_RESTART_MAX_S:g} s (process {pids})",
            hint="`systemctl restart nomad` starts it again; VMs go on",
        )
    if found:
        click.echo("the driver has ended; Nomad starts it again, and VMs go on", err=True)
    else:
        click.echo("no driver of Nomad runs here", err=True)


@click.command(
    epilog="""\b
Examples:
  mkdir -p ~/.local/share/bash-completion/completions
  qemu-node completion bash > ~/.local/share/bash-completion/completions/qemu-node
  qemu-node completion zsh > "${fpath[1]}/_qemu-node"
"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete this command."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    script = found(cli, {}, PROGRAM, _completion_variable())
    # Not `source()`, which starts a bash to ask for its version.
    click.echo(script.source_template % script.source_vars())


def _completion_variable() -> str:
    return f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"


def _set_up_logging(verbose: int) -> None:
    """Log to stderr what `--verbose` asks for; errors that stop a command are printed anyway."""
    level = (logging.CRITICAL, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command line `arguments` and return the exit code."""
    try:
        result = cli.main(
            list(arguments),
            prog_name=PROGRAM,
            complete_var=_completion_variable(),
            standalone_mode=False,
            obj=tuple(arguments),
        )
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        return exc.exit_code
    except click.ClickException as exc:
        show_usage_error(exc)
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except NodeError as exc:
        show_error(exc, arguments)
        return EXIT_ERROR
    except (BrokenPipeError, ExceptionGroup) as exc:
        # `run` writes in tasks of a TaskGroup.
        if isinstance(exc, ExceptionGroup) and exc.split(BrokenPipeError)[1] is not None:
            raise
        # The reader of our output is gone: the interpreter must not write to it at its exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    return result if isinstance(result, int) else 0
