"""GRUB's environment blocks: variables that survive a reboot, in a file of a fixed size.

Owns the format and writing it. Does not own what the variables mean. Not by `grub-editenv`: it
empties the file before it writes, so a power cut there loses all variables (GRUB 2.12,
util/grub-editenv.c, `write_envblk`).

Source: GRUB 2.12, grub-core/lib/envblk.c.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.files.atomic import host_error, write_all, write_atomic

_SIGNATURE = "# GRUB Environment Block\n"
_SIZE_BYTES = 1024
"""GRUB writes into the blocks of the file, so the size never changes."""

Changes = Mapping[str, str | None]
"""New values of variables; None removes one."""


def parse(block: bytes) -> dict[str, str]:
    """Return the variables in `block`: pure. A block that is damaged has none, as for GRUB."""
    text = block.decode("utf-8", "surrogateescape")
    if not text.startswith(_SIGNATURE):
        return {}
    values: dict[str, str] = {}
    for line in _lines(text[len(_SIGNATURE) :]):
        name, equals, value = line.partition("=")
        if equals and not name.startswith("#"):
            values[name] = value
    return values


def _lines(text: str) -> list[str]:
    """Return the lines without their escapes: a backslash takes the next character as it is."""
    lines, line = [], ""
    characters = iter(text)
    for character in characters:
        if character == "\\":
            line += next(characters, "")
        elif character == "\n":
            lines.append(line)
            line = ""
        else:
            line += character
    return lines  # what follows the last newline is padding


def changed(block: bytes, changes: Changes) -> bytes:
    """Return `block` with `changes`, in its own size: pure.

    Raises:
        HostError: the variables do not fit.
    """
    values: dict[str, str | None] = {**parse(block), **changes}
    lines = [f"{name}={_escaped(value)}\n" for name, value in values.items() if value is not None]
    body = (_SIGNATURE + "".join(lines)).encode("utf-8", "surrogateescape")
    size = max(len(block), _SIZE_BYTES)
    if len(body) > size:
        raise HostError(f"GRUB's variables do not fit into {size} bytes")
    return body.ljust(size, b"#")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\\n")


def read(path: Path) -> dict[str, str]:
    """Return the variables in the file `path`; none if it is missing.

    Raises:
        HostError: it cannot be read.
    """
    return parse(_bytes(path))


def update(path: Path, changes: Changes) -> None:
    """Change variables in the file `path` on a journalled file system; make it if it is missing.

    After a power cut it is the old file or the new one.

    Raises:
        HostError: it cannot be written; it is as it was.
    """
    block = _bytes(path)
    new = changed(block, changes)
    if new != block:
        write_atomic(path, new, mode=0o600, is_durable=True)


def update_in_place(path: Path, changes: Changes) -> None:
    """Change variables in the file `path` on the ESP.

    FAT has no journal: to replace a file by another takes more writes than to overwrite two
    sectors, which no allocation or directory depends on.

    Raises:
        HostError: it cannot be written.
    """
    block = _bytes(path)
    new = changed(block, changes)
    if new == block:
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, new)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        raise host_error("write", path, exc) from exc


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as exc:
        raise host_error("read", path, exc) from exc
