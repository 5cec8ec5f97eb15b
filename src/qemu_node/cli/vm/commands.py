"""`qemu-node vm`: the VMs of this machine.

Owns the options and the wording. Does not own what is known of VMs and done with them (`inventory`)
nor how it is shown (`table`). What takes long to import is imported by the command that needs it,
so that `vm list` stays quick.
"""

import asyncio
import os
import sys
from pathlib import Path

import click

from qemu_node.cli.errortext import with_sudo
from qemu_node.cli.main import App, pass_app
from qemu_node.cli.terminal import Duration, print_fields, print_json, print_table, waiting
from qemu_node.cli.vm.argument import complete_vm, running_vm, vm_argument, with_vm_help
from qemu_node.cli.vm.exec import exec_
from qemu_node.cli.vm.logs import logs
from qemu_node.errors import AS_ROOT
from qemu_node.inventory.vms import find_vm
from qemu_node.vm.record.record import VMRecord

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def vm() -> None:
    """List, show, use and stop the VMs of this machine."""


vm.add_command(exec_)
vm.add_command(logs)


@vm.command(
    "list",
    help="""List the VMs of this machine.

    \b
    States:
      running     its driver watches it
      disk-full   it is paused until the node's disk has room
      unmanaged   it runs without a driver; the next driver takes it up
      starting    its driver prepares it
      ended       its process is gone; the driver has yet to remove its files
      unreadable  its state is damaged, or a newer driver wrote it
      orphan      left by a driver that was killed; the next driver removes it

    CPU is in percent of one core over the last half minute. Memory is what the VM
    uses on the host, and the size that its guest has.""",
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
    elif os.geteuid() == 0:
        click.echo("no VMs on this machine: `qemu-node run JOB` starts some", err=True)
    else:
        hint = with_sudo(f"for those of root's driver, {AS_ROOT}", app.arguments)
        click.echo(f"you have no VMs; {hint}", err=True)


@vm.command(
    help=with_vm_help("Show all that is known of a VM; asks its QEMU and guest."),
    epilog="""\b
Examples:
  qemu-node vm show web-3f9c1a2b4d5e
  qemu-node vm show web --json | jq .agent.interfaces
""",
)
@vm_argument
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
    help=with_vm_help("Open a VM's serial console; Ctrl-] leaves it."),
    epilog="""\b
Examples:
  qemu-node vm console web
  qemu-node vm console --no-input web     # only watch; Ctrl-C ends it

The daemon of the web console shares it among all who look. Without it, one client at a time has
the console. The task's log has all that the guest prints.
""",
)
@vm_argument
@click.option("--no-input", is_flag=True, help="Only watch; stdin need not be a terminal.")
@pass_app
def console(app: App, name: str, no_input: bool) -> None:
    """Open a serial console."""
    if not (no_input or (sys.stdin.isatty() and sys.stdout.isatty())):
        raise click.UsageError(
            "the console needs a terminal; --no-input only watches", click.get_current_context()
        )
    from qemu_node.cli.vm.console import open_console
    from qemu_node.inventory.serialport import shared_sockets

    record = running_vm(app, name)
    has_left = asyncio.run(
        open_console(
            record,
            shared_sockets(app.load_config().paths, record.vm_id),
            input_fd=None if no_input else sys.stdin.fileno(),
            output_fd=sys.stdout.fileno(),
            say=lambda line: click.echo(line, err=True),
        )
    )
    click.echo(f"\n{'left the console' if has_left else 'the VM ended'}", err=True)


@vm.command(
    help=with_vm_help("""Stop a VM, or all: first by asking the guest.

    The guest agent is asked first. Then the power button is pressed, QEMU is told to quit, and at
    last it is killed. The driver reports the end to Nomad, which may start the task again, as the
    job's restart block says; `nomad job stop` ends it for good.

    --all stops all VMs at the same time, when the machine shuts down (qemu-node-vms.service). It
    needs neither Nomad nor the driver. After the boot Nomad starts the tasks again, whatever their
    restart block says."""),
    epilog="""\b
Examples:
  qemu-node vm stop web
  qemu-node vm stop --timeout 2m web      # a guest that takes its time
  qemu-node vm stop --now web             # as if its power failed
  qemu-node vm stop --all --timeout 2m
""",
)
@click.argument("name", metavar="VM", required=False, shell_complete=complete_vm)
@click.option("--all", "is_all", is_flag=True, help="Stop every VM of this machine.")
@click.option("--timeout", "timeout_s", type=Duration(), default="30s", show_default=True,
              metavar="DURATION", help="How long a guest may take to end.")  # fmt: skip
@click.option("--now", is_flag=True, help="Do not ask the guest: quit QEMU.")
@_json
@pass_app
@click.pass_context
def stop(
    ctx: click.Context,
    app: App,
    name: str | None,
    is_all: bool,
    timeout_s: float,
    now: bool,
    as_json: bool,
) -> None:
    """Stop a VM, or all."""
    if (name is None) is not is_all:
        raise click.UsageError("name a VM, or use --all", ctx)
    if name is None:
        from qemu_node.cli.vm.stopall import stop_every_vm

        ctx.exit(stop_every_vm(app, 0.0 if now else timeout_s, as_json=as_json))
    from qemu_node.inventory.stop import Stopper
    from qemu_node.vm.life.stopladder import plan_quit, plan_stop

    record = running_vm(app, name)
    with waiting(f"stopping {record.vm_id}") as tell:
        stopper = Stopper(record, tell)
        stopped = asyncio.run(stopper.run(plan_quit() if now else plan_stop(timeout_s)))
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
            "no driver runs; its QEMU waits for one to learn how it ended; "
            f"`qemu-node vm stop --now {record.vm_id}` ends it",
            err=True,
        )


@vm.command(
    help=with_vm_help("""Reset a VM, as the reset button does.

    The guest is not asked, and what it has not written to its disk is lost. Its task goes on: the
    driver sees no end. Refused while the guest is paused."""),
    epilog="""\b
Examples:
  qemu-node vm reset web
  qemu-node vm logs -f web     # watch it boot
""",
)
@vm_argument
@_json
@pass_app
def reset(app: App, name: str, as_json: bool) -> None:
    """Reset a VM."""
    from qemu_node.inventory.reset import reset_guest

    record = running_vm(app, name)
    asyncio.run(reset_guest(record))
    if as_json:
        print_json({"vm_id": record.vm_id})
    else:
        click.echo(f"{record.vm_id} reset; it boots again", err=True)


@vm.command(
    help=with_vm_help("Save a VM's screen as a PNG file; - is stdout."),
    epilog="""\b
Examples:
  qemu-node vm screenshot web screen.png
  qemu-node vm screenshot web - | feh -
""",
)
@vm_argument
@click.argument("file", metavar="FILE.png", type=click.Path(dir_okay=False, path_type=Path))
@_json
@pass_app
def screenshot(app: App, name: str, file: Path, as_json: bool) -> None:
    """Save a screenshot."""
    record = running_vm(app, name)
    if str(file) == "-" and (as_json or sys.stdout.isatty()):
        raise click.UsageError(
            "a picture does not go to a terminal or into JSON; name a file",
            click.get_current_context(),
        )
    picture = asyncio.run(_take_picture(record))
    if str(file) == "-":
        sys.stdout.buffer.write(picture)
        sys.stdout.flush()
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
