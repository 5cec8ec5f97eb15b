"""`qemu-node vm logs`: what a VM's guest printed on its serial port.

Owns the command and the waiting for more. Does not own the log (`inventory.consolelog`).
"""

import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import click

from qemu_node.cli.main import App, pass_app
from qemu_node.cli.vm.argument import vm_argument, with_vm_help
from qemu_node.inventory.vms import find_vm

if TYPE_CHECKING:
    from qemu_node.inventory.consolelog import ConsoleLog

_POLL_S = 0.25
_LAST_S = 2.0
"""How long a VM that has ended must have been silent: its driver still moves its last lines."""


@click.command(
    help=with_vm_help("""Print what a VM's guest printed on its console.

    That is the serial port, as in `nomad alloc logs`. It is shown as plain text: no colours, and
    nothing that acts on a terminal. Works until the driver has removed the VM."""),
    epilog="""\b
Examples:
  qemu-node vm logs web
  qemu-node vm logs -f -n 20 web     # the last 20 lines, then new ones; Ctrl-C ends it
  qemu-node vm logs web | grep -i error
""",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new output, until the VM ends.")
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="N",
              help="Print the last N lines; by default all.")  # fmt: skip
@click.option("--raw", is_flag=True, help="Print the bytes of the log files as they are.")
@vm_argument
@pass_app
def logs(app: App, name: str, follow: bool, lines: int | None, raw: bool) -> None:
    """Print a VM's console log."""
    from qemu_node.host.process.identity import is_alive
    from qemu_node.inventory.consolelog import ConsoleLog, unlogged
    from qemu_node.vm.output.textfilter import TerminalFilter

    paths = app.load_config().paths
    record = find_vm(paths, name).record
    console = ConsoleLog.of(record)
    waiting = unlogged(paths, record)
    if lines is not None:
        waiting, lines = last_lines(waiting, lines)
        console.skip_to_last(lines)
    text_filter = TerminalFilter()
    for data in chain(_read(console), [waiting or b""]):
        _write(data if raw else text_filter.feed(data))
    if not follow:
        return
    if waiting is not None:
        click.echo("no driver watches this VM: what it prints now comes with the next", err=True)
    for data in follow_log(console.read, lambda: is_alive(record.process)):
        _write(data if raw else text_filter.feed(data))
    click.echo("the VM has ended", err=True)


def last_lines(data: bytes | None, lines: int) -> tuple[bytes | None, int]:
    """Return the last `lines` lines of `data`, and how many are missing before it: pure."""
    if not data:
        return data, lines
    found = data.splitlines(keepends=True)
    return b"".join(found[len(found) - min(lines, len(found)) :]), max(lines - len(found), 0)


def follow_log(
    read: Callable[[], bytes],
    is_running: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[bytes]:
    """Yield what `read` returns, until the VM has ended and nothing more comes."""
    silent_s = 0.0
    while silent_s < _LAST_S:
        # Asked before the read: a VM that has ended by now prints nothing after that read.
        runs = is_running()
        if data := read():
            silent_s = 0.0
            yield data
            continue
        sleep(_POLL_S)
        silent_s = 0.0 if runs else silent_s + _POLL_S


def _read(console: "ConsoleLog") -> Iterator[bytes]:
    while data := console.read():
        yield data


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
