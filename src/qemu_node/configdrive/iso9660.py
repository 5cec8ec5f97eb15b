"""An ISO 9660 image of some small files, as bytes: pure.

Owns the format: ECMA-119 (ISO 9660) with Rock Ridge and Joliet, which carry the real names to Linux
and BSD, and to Windows. Does not own which names both can hold (`iso`), nor what Rock Ridge adds to
a record (`rockridge`).

It replaces pycdlib, which keeps 2.5 MiB in the driver's memory once a VM has started. The format of
a small, complete tree that is never changed needs little of what that library does.

The sources: ECMA-119, 4th edition; Microsoft's "Joliet Specification" of 1995.

    block 0     unused: a boot loader's
          16    the volume, twice: plain and Joliet; the end of these
          19    path tables: plain in both byte orders, Joliet in both
                directories, plain, then Joliet; the block of SUSP's continuation
                the files
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from qemu_node.configdrive.isofields import (
    BLOCK_BYTES,
    blocks_of,
    both16,
    both32,
    long_date,
    padded,
    short_date,
)
from qemu_node.configdrive.isotree import PARENT, SELF, Entry, files_below, tree_of
from qemu_node.configdrive.rockridge import RockRidge

# busybox's findfs looks for many kinds of file systems in the first 68 KiB of a device, and takes a
# shorter device for none (1.37, volume_id_get_buffer).
_MIN_BLOCKS = 64

_FIRST_BLOCK = 16
_IS_DIRECTORY = 0x02
_JOLIET_LEVEL_3 = b"%/E"
_NO_DATE = b"0" * 16 + b"\0"


def build_image(label: str, files: Mapping[str, bytes], made_at: datetime) -> bytes:
    """Return an image named `label` that holds `files` by path, all of them made at `made_at`.

    Each name must be one that Joliet allows, and have 64 bytes in UTF-8 at most; directories are
    at most eight levels deep, the root included.
    """
    root = tree_of(files)
    rock_ridge = RockRidge(made_at)
    plain = _Hierarchy(root, _plain_identifier, rock_ridge.of_entry, made_at)
    joliet = _Hierarchy(root, _joliet_identifier, lambda _entry, _name: b"", made_at)
    block = _FIRST_BLOCK + 3
    for hierarchy in (plain, joliet):
        block = hierarchy.place_path_tables(block)
    for hierarchy in (plain, joliet):
        block = hierarchy.place_directories(block)
    rock_ridge.block = block
    block += 1
    contents = []
    for entry in files_below(root):
        assert entry.content is not None
        entry.block = block
        # One that is empty has a block, too: some readers do not like the address 0.
        contents.append(padded(entry.content or b"\0"))
        block += len(contents[-1]) // BLOCK_BYTES
    rest = max(_MIN_BLOCKS - block, 0)
    contents.append(bytes(rest * BLOCK_BYTES))
    block += rest
    return b"".join(
        (
            bytes(_FIRST_BLOCK * BLOCK_BYTES),
            _volume(plain, label, block, made_at, joliet_escape=None),
            _volume(joliet, label, block, made_at, joliet_escape=_JOLIET_LEVEL_3),
            padded(b"\xffCD001\1"),
            *plain.path_tables(),
            *joliet.path_tables(),
            *plain.directory_contents(),
            *joliet.directory_contents(),
            padded(rock_ridge.continuation),
            *contents,
        )
    )


def _plain_identifier(entry: Entry) -> bytes:
    return entry.plain_name


def _joliet_identifier(entry: Entry) -> bytes:
    return entry.name.encode("utf-16-be")


class _Hierarchy:
    """The image's directories in one of their two forms, and where they are.

    Used in this order: `place_path_tables`, `place_directories`; after that, and once all files
    have their block, the rest.
    """

    def __init__(
        self,
        root: Entry,
        identify: Callable[[Entry], bytes],
        describe: Callable[[Entry, bytes], bytes],
        made_at: datetime,
    ) -> None:
        """Sort the directories below `root`.

        Args:
            root: The root.
            identify: Gives the name of an entry.
            describe: Gives the system use area of an entry's record under a name.
            made_at: The date of all entries.
        """
        self._identify = identify
        self._describe = describe
        self._date = short_date(made_at)
        self._directories = self._sorted(root)
        self._blocks: dict[Entry, int] = {}
        self._sizes: dict[Entry, int] = {}
        self._table_block = 0
        self.table_bytes = len(self._path_table("<"))

    def _sorted(self, root: Entry) -> list[Entry]:
        """Return all directories as path tables have them: by level, parent, name (6.9.1)."""
        found, level = [root], [root]
        while level:
            level = [
                entry
                for directory in level
                for entry in self._children(directory)
                if entry.is_directory
            ]
            found += level
        return found

    def _children(self, directory: Entry) -> list[Entry]:
        return sorted(directory.children, key=self._identify)

    @property
    def _table_blocks(self) -> int:
        return blocks_of(self.table_bytes)

    def place_path_tables(self, block: int) -> int:
        """Have the path tables from `block` on; return the block after them."""
        self._table_block = block
        return block + 2 * self._table_blocks

    def place_directories(self, block: int) -> int:
        """Have the directories from `block` on; return the block after them."""
        for directory in self._directories:
            # The length of a record does not depend on what is placed later.
            self._blocks[directory] = block
            self._sizes[directory] = 0
        for directory in self._directories:
            self._blocks[directory] = block
            self._sizes[directory] = len(self._content(directory))
            block += self._sizes[directory] // BLOCK_BYTES
        return block

    @property
    def table_places(self) -> tuple[int, int]:
        """The blocks of the path tables: little endian, big endian."""
        return self._table_block, self._table_block + self._table_blocks

    def path_tables(self) -> tuple[bytes, bytes]:
        """Return both path tables."""
        return padded(self._path_table("<")), padded(self._path_table(">"))

    def directory_contents(self) -> list[bytes]:
        """Return the directories in their order."""
        return [self._content(directory) for directory in self._directories]

    @property
    def root_record(self) -> bytes:
        """The root directory's record for the volume descriptor."""
        return self._record(self._directories[0], SELF, b"")

    def _path_table(self, order: str) -> bytes:
        """Return a path table (9.4); `order` is `struct`'s sign for its byte order."""
        numbers = {entry: number for number, entry in enumerate(self._directories, start=1)}
        table = bytearray()
        for entry in self._directories:
            name = self._identify(entry) if entry.parent is not None else SELF
            parent = numbers[entry.parent or entry]
            place = self._blocks.get(entry, 0)
            table += struct.pack(f"{order}BBIH", len(name), 0, place, parent)
            table += name + bytes(len(name) % 2)
        return bytes(table)

    def _content(self, directory: Entry) -> bytes:
        """Return the records of a directory (6.8.1); none of them crosses the end of a block."""
        parent = directory.parent or directory
        content = bytearray()
        for entry, name in (
            (directory, SELF),
            (parent, PARENT),
            *((child, self._identify(child)) for child in self._children(directory)),
        ):
            record = self._record(entry, name, self._describe(entry, name))
            if len(content) % BLOCK_BYTES + len(record) > BLOCK_BYTES:
                content += bytes(-len(content) % BLOCK_BYTES)
            content += record
        return padded(bytes(content))

    def _record(self, entry: Entry, name: bytes, system_use: bytes) -> bytes:
        """Return a directory record (9.1)."""
        if entry.content is None:
            place, size, flags = self._blocks[entry], self._sizes[entry], _IS_DIRECTORY
        else:
            place, size, flags = entry.block, len(entry.content), 0
        tail = name + bytes((len(name) + 1) % 2) + system_use
        tail += bytes((len(tail) + 1) % 2)
        head = struct.pack("BB", 33 + len(tail), 0) + both32(place) + both32(size) + self._date
        return head + struct.pack("BBB", flags, 0, 0) + both16(1) + bytes([len(name)]) + tail


def _volume(
    hierarchy: _Hierarchy, label: str, blocks: int, made_at: datetime, joliet_escape: bytes | None
) -> bytes:
    """Return a volume descriptor (8.4), or Joliet's, which is a supplementary one (8.5)."""
    encoding = "ascii" if joliet_escape is None else "utf-16-be"

    def text(value: str, size: int) -> bytes:
        """Return `value` with spaces behind it; half a character that is left is zero."""
        whole = size // len(" ".encode(encoding))
        return value.ljust(whole).encode(encoding).ljust(size, b"\0")

    little, big = hierarchy.table_places
    fields: Sequence[bytes] = (
        bytes([1 if joliet_escape is None else 2]) + b"CD001\1\0",
        text("", 32),  # the system
        text(label, 32),
        bytes(8),
        both32(blocks),
        (joliet_escape or b"").ljust(32, b"\0"),
        both16(1) + both16(1),  # volume 1 of a set of 1
        both16(BLOCK_BYTES),
        both32(hierarchy.table_bytes),
        # Each path table once, in its byte order; none has a copy.
        struct.pack("<II", little, 0) + struct.pack(">II", big, 0),
        hierarchy.root_record,
        *(text("", 128) for _ in range(4)),  # set, publisher, preparer, application
        *(text("", 37) for _ in range(3)),  # files: copyright, abstract, bibliography
        long_date(made_at) + long_date(made_at) + _NO_DATE + long_date(made_at),
        b"\1",  # the version of this structure
    )
    return padded(b"".join(fields))
