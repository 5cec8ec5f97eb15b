"""Reading a file whose absence is an answer: an attribute in /sys, a setting, a note of a boot."""

from pathlib import Path


def read_or_empty(path: Path) -> str:
    """Return the text of a file, without white space around it; empty if it cannot be read.

    Also the kernel may have nothing to say: the carrier of a device that is down is EINVAL.
    """
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
