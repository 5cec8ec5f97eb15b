"""`qemu-node vm exec`: a command in a guest, and the exit status that says how it ended.

Owns the command, its input and output, and the exit statuses. Does not own running it
(`qga.agent`).
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from qemu_node.cli.errortext import show_error
from qemu_node.cli.main import App, pass_app
from qemu_node.cli.terminal import Duration, print_json
from qemu_node.cli.vm.argument import running_vm, vm_argument, with_vm_help
from qemu_node.errors import (
    AS_ROOT_OR_GROUP,
    ConfigError,
    GuestAgentError,
    JobError,
    MissingPartError,
    NodeError,
)

if TYPE_CHECKING:
    from qemu_node.qga.replies import ExecResult
    from qemu_node.vm.record.record import VMRecord

EXIT_TIMED_OUT = 124
EXIT_NOT_RUN = 125
EXIT_CANNOT_START = 126
EXIT_NOT_FOUND = 127
"""As of timeout(1), env(1) and shells: none of them is the command's own."""

_EXIT_TOO_LARGE = 255
_UNLIMITED_S = 24 * 3600.0


def _without_dashes(
    ctx: click.Context, param: click.Parameter, words: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the command without the `--` before it, which click keeps after a first argument."""
    command = words[1:] if words and words[0] == "--" else words
    if not command:
        raise click.MissingParameter(ctx=ctx, param=param)
    return command


class _ExecCommand(click.Command):
    """A command that exits with `EXIT_NOT_RUN` on wrong usage: 2 may be the guest command's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as exc:
            exc.exit_code = EXIT_NOT_RUN  # type: ignore[misc] # a ClassVar only by its annotation
            raise


@click.command(
    "exec",
    cls=_ExecCommand,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    help=with_vm_help("""Run a command in a guest, through its agent.

    The job has to allow it: guest_agent { allow_exec = true }. There is no shell and no terminal.
    What is piped to stdin reaches the command; output comes when the command has ended.

    \b
    Exit status:
      the command's; 255 if it is larger, 128+N after signal N
      124  --timeout has passed
      125  the command was not run, or nobody knows how it ended
      126  the guest cannot start the command
      127  the guest has no such command"""),
    epilog="""\b
Examples:
  qemu-node vm exec web -- systemctl is-system-running
  qemu-node vm exec web -- sh -c 'journalctl -b | tail -n 20'
  qemu-node vm exec web -- tee /etc/motd < motd
""",
)
@click.option("--timeout", "timeout_s", type=Duration(), default=None, metavar="DURATION",
              help='Give up after this time, e.g. "30s"; default: one day.')  # fmt: skip
@click.option("-n", "--no-stdin", is_flag=True, help="Give the command no input.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@vm_argument
@click.argument(
    "command", nargs=-1, required=True, type=click.UNPROCESSED, callback=_without_dashes
)
@pass_app
@click.pass_context
def exec_(
    ctx: click.Context,
    app: App,
    *,
    name: str,
    command: tuple[str, ...],
    timeout_s: float | None,
    no_stdin: bool,
    as_json: bool,
) -> None:
    """Run a command in a guest."""
    try:
        record = _allowed_vm(app, name)
        stdin = b"" if no_stdin or sys.stdin.isatty() else _read_stdin()
        result = asyncio.run(_run(record, command, stdin, timeout_s or _UNLIMITED_S))
    except NodeError as exc:
        show_error(exc, app.arguments)
        ctx.exit(exit_status(exc))
    if as_json:
        print_json(
            {
                "exit_code": result.exit_code,
                "signal": result.signal,
                "stdout": result.stdout.decode(errors="replace"),
                "stderr": result.stderr.decode(errors="replace"),
                "truncated": result.truncated,
            }
        )
    else:
        _pass_on(result.stdout, sys.stdout)
        _pass_on(result.stderr, sys.stderr)
        if result.truncated:
            click.echo("output cut: the guest agent keeps 16 MiB", err=True)
    ctx.exit(result.exit_code if 0 <= result.exit_code <= 255 else _EXIT_TOO_LARGE)


def exit_status(error: NodeError) -> int:
    """Return the status of a command that did not end by itself: pure."""
    # Imported here: --help needs none of it.
    from qemu_node.qga.agent import CommandStartError, CommandTimeoutError

    match error:
        case CommandTimeoutError():
            return EXIT_TIMED_OUT
        case CommandStartError(is_missing=True):
            return EXIT_NOT_FOUND
        case CommandStartError():
            return EXIT_CANNOT_START
        case _:
            return EXIT_NOT_RUN


def _allowed_vm(app: App, name: str) -> "VMRecord":
    """Return the record of a VM whose guest may be given commands, by this user."""
    record = running_vm(app, name)
    if not record.allow_exec:
        raise JobError(
            f"the job of {record.display_name} does not allow commands in its guest",
            hint="set guest_agent { allow_exec = true } in the task's config",
        )
    lock = Path(record.qga_lock)
    if not os.access(lock if lock.exists() else lock.parent, os.W_OK):
        raise MissingPartError(
            f"the guest agent of {record.vm_id} is another user's", hint=AS_ROOT_OR_GROUP
        )
    return record


async def _run(
    record: "VMRecord", command: tuple[str, ...], stdin: bytes, timeout_s: float
) -> "ExecResult":
    from qemu_node.inventory.access import agent_of
    from qemu_node.qga.agent import CommandTimeoutError
    from qemu_node.qga.agentsession import AgentTimeoutError

    try:
        return await agent_of(record).run(command, input=stdin, timeout_s=timeout_s)
    except CommandTimeoutError:
        raise
    except AgentTimeoutError as exc:
        raise GuestAgentError(
            str(exc),
            hint=f"`qemu-node vm logs {record.vm_id}` shows whether the guest still boots; the "
            "agent is its package qemu-guest-agent",
        ) from exc


def _read_stdin() -> bytes:
    """Return what is piped to us."""
    from qemu_node.qga.agent import INPUT_MAX_BYTES

    stdin = sys.stdin.buffer.read(INPUT_MAX_BYTES + 1)
    if len(stdin) > INPUT_MAX_BYTES:
        raise ConfigError(
            f"more than {INPUT_MAX_BYTES >> 20} MiB on stdin",
            hint="copy files into the guest over its network",
        )
    return stdin


def _pass_on(data: bytes, stream: TextIO) -> None:
    """Write what the guest's command wrote, fit for a terminal where that reads it."""
    if stream.isatty():
        from qemu_node.cli.vm.consolefilter import ConsoleFilter

        data = ConsoleFilter().feed(data)
    stream.buffer.write(data)
    stream.flush()
