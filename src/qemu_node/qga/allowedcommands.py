"""Which commands the guest agent may be sent, and with which arguments: pure.

Owns the list. Does not own who may use which: what runs a command in the guest needs the job's
`allow_exec` (`nomad.task.exec`).

Files of the guest (guest-file-*), sleep (guest-suspend-*) and changes of its vCPUs and memory
blocks are not on the list: nothing here needs them, and each gets around what the host counts on.
Names and arguments are those of QEMU's qga/qapi-schema.json.
"""

from collections.abc import Mapping

from qemu_node.errors import GuestAgentError


class CommandNotAllowedError(GuestAgentError):
    """The command, or an argument of it, is not on the list; nothing was sent."""

    retry = False


_COMMANDS: dict[str, frozenset[str]] = {
    # These show something of the guest and change nothing.
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
    # These the node itself needs.
    "guest-fsfreeze-freeze": frozenset(),
    "guest-fsfreeze-status": frozenset(),
    "guest-fsfreeze-thaw": frozenset(),
    "guest-fstrim": frozenset({"minimum"}),
    "guest-shutdown": frozenset({"mode"}),
    "guest-sync-delimited": frozenset({"id"}),
    # Whoever may use these is as good as root in the guest.
    "guest-exec": frozenset({"path", "arg", "env", "input-data", "capture-output"}),
    "guest-exec-status": frozenset({"pid"}),
    "guest-set-time": frozenset({"time"}),
    "guest-set-user-password": frozenset({"username", "password", "crypted"}),
    "guest-ssh-add-authorized-keys": frozenset({"username", "keys", "reset"}),
    "guest-ssh-get-authorized-keys": frozenset({"username"}),
    "guest-ssh-remove-authorized-keys": frozenset({"username", "keys"}),
}


def check_command(command: str, arguments: Mapping[str, object]) -> None:
    """Return if `command` may be sent with these arguments.

    Raises:
        CommandNotAllowedError: it may not; the message names the command or the argument.
    """
    known = _COMMANDS.get(command)
    if known is None:
        raise CommandNotAllowedError(f"guest agent command {command!r} is not supported")
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise CommandNotAllowedError(
            f"guest agent command {command} takes no argument {unknown[0]!r}"
        )
