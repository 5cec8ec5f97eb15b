"""Which image of the node's system this is: the facts of os-release.

Owns our fields of os-release(5), which the build of the image writes.
"""

import re
import shlex
from dataclasses import dataclass

from qemu_node.host.files.reading import read_or_empty
from qemu_node.nodeos.paths import NodePaths

IMAGE_ID = "nomad-qemu-node"

TAG_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""A tag, as registries take it (OCI distribution specification 1.1, "Pulling manifests")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The facts of os-release; a field that is missing there is empty."""

    pretty_name: str = ""
    image_id: str = ""
    tag: str = ""
    version: str = ""
    source: str = ""
    """Where the image's successors come from: `registry/repository:tag`."""
    epoch: int = 0
    """When it was built, in Unix time, as its packages were dated; 0: unknown."""
    local_binaries: tuple[str, ...] = ()
    """Programs in it that are no official release."""

    @property
    def is_node_os(self) -> bool:
        """Whether this system is an image of ours, so that `qemu-node os` can do something."""
        return bool(self.tag)


def parse_release(text: str) -> Release:
    """Return the facts in `text`, a file as os-release(5) has it: pure. Takes any text."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or name.startswith("#"):
            continue
        try:
            words = shlex.split(value)
        except ValueError:  # a quotation without its end
            continue
        values[name] = words[0] if words else ""
    epoch = values.get("IMAGE_EPOCH", "")
    return Release(
        pretty_name=values.get("PRETTY_NAME", ""),
        image_id=values.get("IMAGE_ID", ""),
        tag=values.get("IMAGE_TAG", ""),
        version=values.get("IMAGE_VERSION", ""),
        source=values.get("IMAGE_SOURCE", ""),
        epoch=int(epoch) if epoch.isdecimal() and len(epoch) < 12 else 0,
        local_binaries=tuple(values.get("IMAGE_LOCAL_BINARIES", "").split()),
    )


def read_release(paths: NodePaths) -> Release:
    """Return the facts of the running system; empty ones if there is no os-release."""
    return parse_release(read_or_empty(paths.os_release))
