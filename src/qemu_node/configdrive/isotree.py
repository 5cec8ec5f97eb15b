"""The files and directories that an ISO 9660 image holds: pure.

Owns the tree and its plain names. Does not own how it is written (`iso9660`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SELF, PARENT = b"\0", b"\1"
"""The names of a directory and of its parent in the directory itself (ECMA-119 6.8.2.2)."""


@dataclass(slots=True, eq=False)
class Entry:
    """A file or a directory of the image."""

    name: str
    plain_name: bytes
    """Its name without extensions. A number: short, and it never collides."""
    content: bytes | None
    """None: a directory."""
    parent: "Entry | None" = None
    children: "list[Entry]" = field(default_factory=list)
    block: int = 0
    """Where a file's content is."""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.content is None


def tree_of(files: Mapping[str, bytes]) -> Entry:
    """Return the root of a tree with `files` and the directories that they need."""
    root = Entry("", SELF, None)
    directories = {"": root}
    for number, (path, content) in enumerate(sorted(files.items())):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            directory, parent = "/".join(parts[:depth]), directories["/".join(parts[: depth - 1])]
            if directory not in directories:
                plain_name = b"D%07d" % len(directories)
                made = Entry(parts[depth - 1], plain_name, None, parent)
                directories[directory] = made
                parent.children.append(made)
        parent = directories["/".join(parts[:-1])]
        parent.children.append(Entry(parts[-1], b"F%07d.;1" % number, content, parent))
    return root


def files_below(directory: Entry) -> Iterator[Entry]:
    """Yield the files below a directory, at any depth."""
    for entry in directory.children:
        if entry.is_directory:
            yield from files_below(entry)
        else:
            yield entry
