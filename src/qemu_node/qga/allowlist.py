"""Which commands the guest agent may be sent, and with which arguments: pure.

Owns the list. Does not own who is in which group's favour: callers name the groups they may use.

Files of the guest (guest-file-*), sleep (guest-suspend-*) and changes of its vCPUs and memory
blocks are in no group: nothing here needs them, and each gets around what the host counts on. Names
and arguments are those of QEMU's qga/qapi-schema.json.
"""

from collections.abc import Collection, Mapping
from enum import StrEnum

from qemu_node.errors import GuestAgentError


class CommandGroup(StrEnum):
    """Commands that the same people may use."""

    READ = "read"
    """Shows something of the guest and changes nothing."""
    DRIVER = "driver"
    """What the node itself does to a guest."""
    EXEC = "exec"
    """As good as root in the guest: only where the job allows it."""


class CommandNotAllowedError(GuestAgentError):
    """The command, or an argument of it, is not on the list; nothing was sent."""

    retry = False


_COMMANDS: dict[CommandGroup, dict[str, frozenset[str]]] = {
    CommandGroup.READ: {
        "guest-get-disks": frozenset(),
        "guest-get-fsinfo": frozenset(),
        "guest-get-host-name": frozenset(),
        "guest-get-load": frozenset(),
        "guest-get-memory-blocks": frozenset(),
        "guest-get-osinfo": frozenset(),
        "guest-get-time": frozenset(),
        "guest-get-timezone": frozenset(),
        "guest-get-users": frozenset(),
        "guest-get-vcpus": frozenset(),
        "guest-info": frozenset(),
        "guest-network-get-interfaces": frozenset(),
        "guest-ping": frozenset(),
    },
    CommandGroup.DRIVER: {
        "guest-fsfreeze-freeze": frozenset(),
        "guest-fsfreeze-status": frozenset(),
        "guest-fsfreeze-thaw": frozenset(),
        "guest-fstrim": frozenset({"minimum"}),
        "guest-shutdown": frozenset({"mode"}),
        "guest-sync-delimited": frozenset({"id"}),
    },
    CommandGroup.EXEC: {
        "guest-exec": frozenset({"path", "arg", "env", "input-data", "capture-output"}),
        "guest-exec-status": frozenset({"pid"}),
        "guest-set-time": frozenset({"time"}),
        "guest-set-user-password": frozenset({"username", "password", "crypted"}),
        "guest-ssh-add-authorized-keys": frozenset({"username", "keys", "reset"}),
        "guest-ssh-get-authorized-keys": frozenset({"username"}),
        "guest-ssh-remove-authorized-keys": frozenset({"username", "keys"}),
    },
}


def group_of(command: str) -> CommandGroup | None:
    """Return the group that `command` is in; None for one that nobody may use."""
    return next((group for group, commands in _COMMANDS.items() if command in commands), None)


def commands_in(group: CommandGroup) -> frozenset[str]:
    """Return the names of the commands in `group`."""
    return frozenset(_COMMANDS[group])


def check_command(
    command: str,
    arguments: Mapping[str, object],
    *,
    allowed: Collection[CommandGroup] = tuple(CommandGroup),
) -> None:
    """Return if `command` may be sent with these arguments by someone who may use `allowed`.

    Raises:
        CommandNotAllowedError: it may not; the message says which command or argument, and why.
    """
    group = group_of(command)
    if group is None:
        raise CommandNotAllowedError(f"guest agent command {command!r} is not supported")
    if group not in allowed:
        raise CommandNotAllowedError(f"guest agent command {command} is not allowed for this VM")
    unknown = sorted(set(arguments) - _COMMANDS[group][command])
    if unknown:
        raise CommandNotAllowedError(
            f"guest agent command {command} takes no argument {unknown[0]!r}"
        )
