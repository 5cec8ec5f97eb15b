"""Small files that are read whole: those whose absence is an answer, and those with a secret."""

import os
import stat
from pathlib import Path

from qemu_node.errors import ConfigError

_SECRET_MAX_BYTES = 4096


def read_or_empty(path: Path) -> str:
    """Return the text of a file, without white space around it; empty if it cannot be read.

    Also the kernel may have nothing to say: the carrier of a device that is down is EINVAL.
    """
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def read_secret(path: Path, *, hint: str) -> str:
    """Return the text of a file that others can neither read nor change.

    Raises:
        ConfigError: it cannot be read, others can, or it is no text; `hint` is for the first.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            data = os.read(fd, _SECRET_MAX_BYTES)
        finally:
            os.close(fd)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}", hint=hint) from exc
    # The group may read it: it is the daemon's, and so systemd shows the mode of a credential.
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o027:
        raise ConfigError(f"{path}: others may read or change the file", hint=f"chmod 0640 {path}")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"{path}: there are other characters in it than ASCII", hint=hint
        ) from exc
