"""An initramfs written without tools: a cpio archive, and kernel modules in loading order.

Owns the archive format and module dependencies. Does not own what a guest puts into it.
"""

import lzma
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

_MODULE_LIST = "lib/modules.load"
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


class Initramfs:
    """Files, links and directories, collected in memory and written as one `newc` archive.

    Paths are relative to the root of the guest's file system; parent directories are implied.
    """

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes]] = {}

    def add_directory(self, path: str) -> None:
        """Add an empty directory."""
        self._put(path, stat.S_IFDIR | 0o755, b"")

    def add_file(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._put(path, stat.S_IFREG | mode, content)

    def add_link(self, path: str, target: str) -> None:
        """Add a symbolic link to `target`."""
        self._put(path, stat.S_IFLNK | 0o777, target.encode())

    def add_modules(self, root: Path, names: Sequence[str]) -> None:
        """Add kernel modules from the root `root` with their dependencies, uncompressed.

        `/lib/modules.load` then lists their paths in an order in which `insmod` can load them.
        Names that the kernel has built in are left out.
        """
        files = {
            path.name.split(".")[0].replace("-", "_"): path
            for path in sorted(root.glob("usr/lib/modules/*/kernel/**/*.ko*"))
        }
        ordered: dict[str, bytes] = {}

        def visit(name: str) -> None:
            if name in ordered or name not in files:
                return
            content = _read_module(files[name])
            for dependency in module_dependencies(content):
                visit(dependency)
            ordered[name] = content

        for name in names:
            visit(name)
        for name, content in ordered.items():
            self.add_file(f"lib/modules/{name}.ko", content)
        listing = "".join(f"/lib/modules/{name}.ko\n" for name in ordered)
        self.add_file(_MODULE_LIST, listing.encode())

    def to_cpio(self) -> bytes:
        """Return the archive (kernel: driver-api/early-userspace/buffer-format.rst)."""
        parts = [
            _cpio_entry(inode, path, mode, content)
            for inode, (path, (mode, content)) in enumerate(sorted(self._entries.items()), start=1)
        ]
        parts.append(_cpio_entry(0, "TRAILER!!!", 0, b""))
        return b"".join(parts)

    def _put(self, path: str, mode: int, content: bytes) -> None:
        parent = path.rpartition("/")[0]
        if parent and parent not in self._entries:
            self.add_directory(parent)
        self._entries[path] = (mode, content)


def module_dependencies(content: bytes) -> Iterable[str]:
    """Return the modules that the module with this ELF content says it needs (.modinfo)."""
    match = _DEPENDS.search(content)
    if match is None or not match[1]:
        return ()
    return tuple(name.replace("-", "_") for name in match[1].decode().split(","))


def _read_module(path: Path) -> bytes:
    """Return a module's content; Debian's are compressed."""
    raw = path.read_bytes()
    return lzma.decompress(raw) if path.suffix == ".xz" else raw


def _cpio_entry(inode: int, path: str, mode: int, content: bytes) -> bytes:
    """Return one `newc` entry: 13 fields of 8 hex digits, name and content padded to 4 bytes."""
    name = path.encode() + b"\0"
    links, mtime = 1, 0
    fields = (inode, mode, 0, 0, links, mtime, len(content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
