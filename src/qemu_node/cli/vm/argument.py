"""The VM that a command line names: its help, its completion, and finding it.

Owns what a VM must be for a command to use it. Does not own what a name can be
(`inventory.vms`).
"""

import contextlib
import inspect
from typing import TYPE_CHECKING

import click

from qemu_node.cli.main import App
from qemu_node.errors import AS_ROOT_OR_GROUP, MissingPartError, NodeError, VMNotFoundError
from qemu_node.inventory.vms import find_vm, list_vms
from qemu_node.text import clean
from qemu_node.vm.record.record import VMRecord

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_HELP = """\
VM is an id or a name that `qemu-node vm list` shows, the beginning of the id or of the
allocation's id, or a name such as group[0], group[0]/task or task that only one VM has."""


def with_vm_help(text: str) -> str:
    """Return the help of a command that takes a VM."""
    return f"{inspect.cleandoc(text)}\n\n{_HELP}"


def complete_vm(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """Return the VMs whose id begins so, with their names."""
    from click.shell_completion import CompletionItem

    with contextlib.suppress(NodeError):
        return [
            CompletionItem(vm.record.vm_id, help=clean(vm.record.display_name))
            for vm in list_vms(App.of(ctx).load_config().paths)
            if vm.record.vm_id.startswith(incomplete)
        ]
    return []


vm_argument = click.argument("name", metavar="VM", shell_complete=complete_vm)


def running_vm(app: App, name: str) -> VMRecord:
    """Return the record of a VM whose process runs and whose sockets we may use.

    Raises:
        VMNotFoundError: there is no such VM, or it has ended.
        MissingPartError: this user may not use its sockets.
    """
    from qemu_node.inventory.access import may_reach

    found = find_vm(app.load_config().paths, name)
    if not found.is_running:
        raise VMNotFoundError(
            f"VM {found.record.vm_id} does not run any more",
            hint=f"`qemu-node vm logs {found.record.vm_id}` shows what it printed; its driver "
            "will report its end and remove its files",
        )
    if not may_reach(found.record):
        raise MissingPartError(f"VM {found.record.vm_id} is another user's", hint=AS_ROOT_OR_GROUP)
    return found.record
