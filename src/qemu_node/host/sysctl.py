"""Kernel settings under /proc/sys. Owns writing one; does not own what it is for."""

import os
from pathlib import Path

from qemu_node.host.files.atomic import host_error

_ROOT = "/proc/sys/"


def write_sysctl(name: str, value: int) -> bool:
    """Set a kernel setting; False if this kernel, or this device, does not have it.

    Args:
        name: Its path below /proc/sys. Dots instead of slashes, as `sysctl` takes them, are
            ambiguous: the name of a network device may hold dots.
        value: The new value.

    Raises:
        HostError: the kernel refused.
    """
    path = _ROOT + name
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise host_error("set", Path(path), exc) from exc
    try:
        os.write(fd, str(value).encode())
    except OSError as exc:
        raise host_error("set", Path(path), exc) from exc
    finally:
        os.close(fd)
    return True
