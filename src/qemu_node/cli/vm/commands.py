"""`qemu-node vm`: the VMs of this machine, for whoever sits at it.

Owns the options and the wording. What a VM is, is found by `vmstate` and `vmreport` and shown by
`vmtable`; `console` and `vmstop` do what takes longer. Whatever imports qemu.qmp is loaded by the
command that needs it, so that a list comes at once.
"""

import asyncio
import contextlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qemu_node.cli.main import App, pass_app
from qemu_node.cli.output import clean
from qemu_node.cli.terminal import Duration, print_fields, print_json, print_table, waiting
from qemu_node.errors import (
    AS_ROOT_OR_GROUP,
    ConfigError,
    JobError,
    MissingPartError,
    NodeError,
    VMNotFoundError,
)
from qemu_node.inventory.registry import find_vm, list_vms
from qemu_node.vm.record.record import VMRecord

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_NAME_HELP = """\
NAME is a VM's id or name as `qemu-node vm list` shows them, the beginning of the id or of the
allocation's id, or the name of the task where only one VM has it."""
_UNLIMITED_S = 24 * 3600.0


def _with_name(text: str) -> str:
    """Return the help of a command that takes a NAME."""
    return f"{inspect.cleandoc(text)}\n\n{_NAME_HELP}"


def _complete_name(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """Return the VMs whose id begins so, with their names."""
    from click.shell_completion import CompletionItem

    app = ctx.find_object(App) or App(config_path=None)
    with contextlib.suppress(NodeError):
        return [
            CompletionItem(vm.record.vm_id, help=clean(vm.record.display_name))
            for vm in list_vms(app.load_config().paths)
            if vm.record.vm_id.startswith(incomplete)
        ]
    return []


_name = click.argument("name", metavar="NAME", shell_complete=_complete_name)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def vm() -> None:
    """List, show, use and stop the VMs of this machine."""


@vm.command(
    "list",
    help="""List the VMs, also those that no driver holds.

    \b
    States:
      running    its driver watches it
      unmanaged  it runs without a driver; the next driver takes it up again
      starting   its driver prepares it
      ended      its process is gone and the driver has yet to remove its files
      orphan     left over by a driver that was killed; the next one removes it

    CPU is in percent of one core over the last half minute, memory what the VM takes of the host
    and what its guest has.""",
    epilog="""\b
Examples:
  qemu-node vm list
  qemu-node vm list --wide         # with names and addresses; asks the guests
  qemu-node vm list --json | jq -r '.[] | select(.state != "running") | .vm_id'
""",
)
@click.option(
    "--wide", is_flag=True, help="Show name and addresses of the guests; asks their agents."
)
@_json
@pass_app
def list_(app: App, wide: bool, as_json: bool) -> None:
    """List the VMs."""
    from qemu_node.cli.vm import table as vmtable
    from qemu_node.inventory.state import list_summaries

    vms = list_summaries(app.load_config().paths)
    guests = None
    if wide:
        from qemu_node.inventory.report import ask_networks

        guests = asyncio.run(ask_networks(vms))
    if as_json:
        print_json(vmtable.to_json(vms, guests))
    elif vms:
        columns = vmtable.WIDE_COLUMNS if wide else vmtable.COLUMNS
        print_table(columns, vmtable.rows(vms, guests))
    else:
        click.echo("no VMs on this machine", err=True)


@vm.command(
    help=_with_name("Show all there is to know about a VM; asks its QEMU and its guest."),
    epilog="""\b
Examples:
  qemu-node vm show web-3f9c1a2b4d5e
  qemu-node vm show web --json | jq .agent.interfaces
""",
)
@_name
@_json
@pass_app
def show(app: App, name: str, as_json: bool) -> None:
    """Show one VM."""
    from qemu_node.cli.vm import table as vmtable
    from qemu_node.inventory.report import report_on
    from qemu_node.inventory.state import summarize

    paths = app.load_config().paths
    record = find_vm(paths, name).record
    report = asyncio.run(report_on(record, summarize(paths, record.vm_id)))
    if as_json:
        print_json(vmtable.report_to_json(report))
    else:
        print_fields(vmtable.report_lines(report))


@vm.command(
    help=_with_name("Open a VM's serial console; Ctrl-] leaves it."),
    epilog="""\b
Examples:
  qemu-node vm console web
  qemu-node vm console --no-input web     # look on; Ctrl-C leaves

One client at a time has the console. What the guest prints is in the task's log in any case.
""",
)
@_name
@click.option("--no-input", is_flag=True, help="Only look on; stdin need not be a terminal.")
@pass_app
def console(app: App, name: str, no_input: bool) -> None:
    """Open a serial console."""
    if not (no_input or (sys.stdin.isatty() and sys.stdout.isatty())):
        raise click.UsageError(
            "the console needs a terminal; --no-input only looks on", click.get_current_context()
        )
    from qemu_node.cli.vm.console import ConsoleError, attach, is_taken

    record = _running(app, name)
    if asyncio.run(is_taken(record)):
        raise ConsoleError(
            f"somebody else has the console of {record.vm_id}",
            hint="one client at a time; what it prints is in the task's log",
        )
    leave = "Ctrl-C" if no_input else "Ctrl-]"
    click.echo(
        f"console of {clean(record.display_name)}; {leave} leaves, Enter wakes a login", err=True
    )
    input_fd = None if no_input else sys.stdin.fileno()
    path = Path(record.sockets.serial)
    has_left = asyncio.run(attach(path, input_fd=input_fd, output_fd=sys.stdout.fileno()))
    click.echo(f"\n{'left the console' if has_left else 'the VM ended'}", err=True)


@vm.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    help=_with_name("""Run a command in a guest through its agent and leave with its exit code.

    The job has to allow it: guest_agent { allow_exec = true }. There is no shell and no terminal;
    output comes when the command has ended. What is piped to stdin reaches the command."""),
    epilog="""\b
Examples:
  qemu-node vm exec web -- systemctl is-system-running
  qemu-node vm exec web -- sh -c 'journalctl -b | tail -n 20'
  qemu-node vm exec web -- tee /etc/motd < motd

The exit code is the command's; 255 where that does not fit, 1 if it was not run.
""",
)
@click.option("--timeout", "timeout_s", type=Duration(), default=None, metavar="DURATION",
              help='Give up after this time, e.g. "30s"; by default a day.')  # fmt: skip
@click.option("-n", "--no-stdin", is_flag=True, help="Give the command no input.")
@_json
@_name
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
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
    from qemu_node.inventory.access import agent_of

    record = _running(app, name)
    if not record.allow_exec:
        raise JobError(
            f"the job of {record.display_name} does not allow commands in its guest",
            hint="set guest_agent { allow_exec = true } in the task's config",
        )
    stdin = b"" if no_stdin or sys.stdin.isatty() else _read_stdin()
    words = list(command[1:] if command[0] == "--" else command)
    if not words:
        raise click.UsageError("COMMAND... is missing", ctx)
    agent = agent_of(record)
    result = asyncio.run(agent.run(words, input=stdin, timeout_s=timeout_s or _UNLIMITED_S))
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
        _pass_on(result.stdout, 1, is_terminal=sys.stdout.isatty())
        _pass_on(result.stderr, 2, is_terminal=sys.stderr.isatty())
        if result.truncated:
            click.echo("output cut: the guest agent keeps 16 MiB", err=True)
    ctx.exit(result.exit_code if 0 <= result.exit_code <= 255 else 255)


@vm.command(
    help=_with_name("""Stop a VM: ask the guest agent, then press the power button, then end QEMU.

    The driver sees the end and reports it to Nomad, which may start the task again as the job's
    restart block says; `nomad job stop` ends it for good."""),
    epilog="""\b
Examples:
  qemu-node vm stop web
  qemu-node vm stop --timeout 2m web      # a guest that takes its time
  qemu-node vm stop --now web             # as if its power failed
""",
)
@_name
@click.option("--timeout", "timeout_s", type=Duration(), default="30s", show_default=True,
              metavar="DURATION", help="What the guest gets before force is used.")  # fmt: skip
@click.option("--now", is_flag=True, help="Do not ask the guest: quit QEMU.")
@_json
@pass_app
def stop(app: App, name: str, timeout_s: float, now: bool, as_json: bool) -> None:
    """Stop a VM."""
    from qemu_node.inventory.stop import Stopper, plan

    record = _running(app, name)
    with waiting(f"stopping {record.vm_id}") as tell:
        stopper = Stopper(record, tell)
        stopped = asyncio.run(stopper.run(plan(timeout_s, now=now)))
    if as_json:
        print_json(
            {
                "vm_id": record.vm_id,
                "by": stopped.action,
                "waits_for_driver": stopped.waits_for_driver,
            }
        )
        return
    click.echo(f"{record.vm_id} stopped", err=True)
    if stopped.waits_for_driver:
        click.echo(
            "its QEMU waits for the driver, which is away, to learn how it ended; "
            "`vm stop --now` ends it",
            err=True,
        )


@vm.command(
    help=_with_name("Save what is on a VM's screen as a PNG file, - for stdout."),
    epilog="""\b
Examples:
  qemu-node vm screenshot web screen.png
  qemu-node vm screenshot web - | feh -
""",
)
@_name
@click.argument("file", metavar="FILE.png", type=click.Path(dir_okay=False, path_type=Path))
@_json
@pass_app
def screenshot(app: App, name: str, file: Path, as_json: bool) -> None:
    """Save a screenshot."""
    record = _running(app, name)
    if str(file) == "-" and (as_json or sys.stdout.isatty()):
        raise click.UsageError(
            "a picture does not go to a terminal or into JSON; name a file",
            click.get_current_context(),
        )
    picture = asyncio.run(_take_picture(record))
    if str(file) == "-":
        _pass_on(picture, 1, is_terminal=False)
        return
    from qemu_node.host.files.atomic import write_atomic

    # It may show what only this user is to see.
    write_atomic(file, picture, mode=0o600)
    if as_json:
        print_json({"vm_id": record.vm_id, "file": str(file.absolute()), "bytes": len(picture)})
    else:
        click.echo(f"{file}: {len(picture)} bytes", err=True)


async def _take_picture(record: VMRecord) -> bytes:
    from qemu_node.inventory.access import connect_monitor
    from qemu_node.qmp.commands import screendump_png

    async with await connect_monitor(record) as qmp:
        return await screendump_png(qmp)


def _running(app: App, name: str) -> VMRecord:
    """Return the record of a VM whose process runs and whose sockets we may use.

    Raises:
        VMNotFoundError: there is no such VM, or it has ended.
        MissingPartError: this user may not use its sockets.
    """
    from qemu_node.inventory.access import may_reach

    found = find_vm(app.load_config().paths, name)
    if not found.is_running:
        raise VMNotFoundError(
            f"{found.record.vm_id} does not run any more",
            hint="its driver will report its end and remove its files",
        )
    if not may_reach(found.record):
        raise MissingPartError(f"{found.record.vm_id} is another user's", hint=AS_ROOT_OR_GROUP)
    return found.record


def _read_stdin() -> bytes:
    """Return what is piped to us.

    Raises:
        ConfigError: it is more than the guest agent takes.
    """
    from qemu_node.qga.agent import INPUT_MAX_BYTES

    stdin = sys.stdin.buffer.read(INPUT_MAX_BYTES + 1)
    if len(stdin) > INPUT_MAX_BYTES:
        raise ConfigError(
            f"more than {INPUT_MAX_BYTES >> 20} MiB on stdin",
            hint="copy files into the guest over its network",
        )
    return stdin


def _pass_on(data: bytes, fd: int, *, is_terminal: bool) -> None:
    """Write what a guest sent to a descriptor, fit for a terminal where it is one."""
    if is_terminal:
        from qemu_node.cli.vm.consolefilter import ConsoleFilter

        data = ConsoleFilter().feed(data)
    stream = sys.stdout if fd == 1 else sys.stderr
    stream.buffer.write(data)
    stream.flush()
