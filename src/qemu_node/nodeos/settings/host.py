"""Host name and root's password of a running node, kept for every later boot.

Owns the files on /oem, and telling the running system. `hostname` and `passwd` would change /etc
alone, which is new at every boot: the script `apply-settings` fills it from these files.
"""

from qemu_node.host.files.atomic import write_atomic
from qemu_node.host.files.directories import make_directory
from qemu_node.host.process.command import run_blocking
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.setup.seed import check_hostname, check_password_hash

_TOOL_S = 60.0


def keep_hostname(paths: NodePaths, name: str) -> None:
    """Make `name` the node's host name from now on.

    Raises:
        ConfigError: it is no host name; nothing was changed.
        HostError: /oem cannot be written.
        ProcessError: it counts from the next boot on, but not yet.
    """
    check_hostname(name)
    _keep(paths, "hostname", name)
    run_blocking(["hostnamectl", "set-hostname", name], timeout_s=_TOOL_S)


def keep_password(paths: NodePaths, hashed: str) -> None:
    """Make `hashed`, a hash of crypt(5), that of root's password from now on.

    Raises:
        ConfigError: it is no such hash; nothing was changed.
        HostError: /oem cannot be written.
        ProcessError: it counts from the next boot on, but not yet.
    """
    check_password_hash(hashed)
    _keep(paths, "root-password", f"root:{hashed}")
    # By stdin: a command line can be read by everybody.
    run_blocking(["chpasswd", "--encrypted"], stdin=f"root:{hashed}\n".encode(), timeout_s=_TOOL_S)


def _keep(paths: NodePaths, name: str, line: str) -> None:
    make_directory(paths.own / "host", 0o700)
    write_atomic(paths.own / "host" / name, f"{line}\n".encode(), mode=0o600, is_durable=True)
