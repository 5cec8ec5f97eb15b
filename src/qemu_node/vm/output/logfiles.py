"""Where a task's log files are, and finding them in a directory that nobody can be trusted with.

Owns the names, `<task>.<stream>.<N>` in `<alloc_dir>/alloc/logs`, the highest N being the newest
(Nomad's client/fs_endpoint.go, logIndexes). Does not own what is in them.

The directory has mode 0777 and the tasks of the allocation write to it: it is opened without
following links, and so is every file in it.
"""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from qemu_node.host.files.beneath import open_beneath


def log_prefix(task_name: str, stream: str) -> str:
    """Return how the files of one stream of a task begin."""
    return f"{task_name}.{stream}."


@contextmanager
def open_logs_dir(logs_dir: Path) -> Generator[int]:
    """Have `<alloc_dir>/alloc/logs` open, of which only `<alloc_dir>` is Nomad's alone.

    Raises:
        OSError: it cannot be opened, or one of its last two components is a link.
    """
    alloc_fd = os.open(logs_dir.parent.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        beneath = f"{logs_dir.parent.name}/{logs_dir.name}"
        dir_fd = open_beneath(alloc_fd, beneath, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(alloc_fd)
    try:
        yield dir_fd
    finally:
        os.close(dir_fd)


def list_log_numbers(dir_fd: int, prefix: str) -> list[int]:
    """Return the N of all files of a stream, in order."""
    # 18 digits fit Nomad's int; a longer number was put there by somebody else.
    pattern = re.compile(re.escape(prefix) + r"(0|[1-9][0-9]{0,17})")
    with os.scandir(dir_fd) as entries:
        matches = [pattern.fullmatch(entry.name) for entry in entries]
    return sorted(int(match[1]) for match in matches if match is not None)
