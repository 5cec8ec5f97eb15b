"""node.json: what a driver knows of its node and others of the node cannot see.

Owns the format, the place, and adding to its counts: all drivers of a node's directories share the
file (the agent's, and those of `qemu-node run`), so it is changed under a lock. It holds no secret.
Does not own what is counted (`vm.nodereport`).

Readers ignore keys that they do not know, and a new key has a default. Only another meaning of a
key raises the version; then a reader takes the file for none. /run is empty after a boot, so counts
begin with it.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from qemu_node.config.node import Paths
from qemu_node.host.files import atomic, beneath
from qemu_node.host.files.directories import open_directory
from qemu_node.host.files.lock import FileLock
from qemu_node.text import DECODE_ERRORS

NODE_VERSION = 1
_LOCK_TIMEOUT_S = 5.0
_LIST_MODE = 0o755


class ImageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One image of the cache."""

    name: str
    """Of its file, as its source calls it."""
    digest: str
    size_bytes: int
    vms: int
    """How many VMs run on it."""
    is_pinned: bool = False
    is_outdated: bool = False


class CacheFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The image cache."""

    count: int
    bytes: int
    """Space that the images take."""
    in_use: int
    """How many of them VMs run on."""
    in_use_bytes: int
    images: tuple[ImageFacts, ...] = ()
    """The first of them, by name."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What has happened on the node since its boot."""

    started: int = 0
    start_s: float = 0.0
    """How long the starts that succeeded took together."""
    cancelled: int = 0
    """Starts that Nomad gave up."""
    failed: Mapping[str, int] = {}
    """The step of a start (`StartStep`, or `check` before the first one) → failures."""
    ended: Mapping[str, int] = {}
    """How VMs have ended (`EndKind`) → how many."""

    def plus(self, other: "Counts") -> "Counts":
        """Return the sum."""
        return Counts(
            started=self.started + other.started,
            start_s=self.start_s + other.start_s,
            cancelled=self.cancelled + other.cancelled,
            failed=_sum(self.failed, other.failed),
            ended=_sum(self.ended, other.ended),
        )


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """node.json."""

    version: int = NODE_VERSION
    written_at: float
    """Unix time."""
    driver_version: str = ""
    data_dir: str = ""
    """Whose images these are: drivers with another data directory can share the run directory."""
    cache: CacheFacts | None = None
    """None: it could not be read."""
    cache_at: float | None = None
    """When it was read; Unix time."""
    problems: tuple[str, ...] = ()
    """What does not work in the driver."""
    counts: Counts = Counts()


class NodeFile:
    """The file of one run directory."""

    def __init__(self, paths: Paths) -> None:
        self.path = node_file(paths)
        self._data_dir = paths.data

    def add(
        self,
        counts: Counts,
        *,
        now_s: float,
        driver_version: str,
        problems: tuple[str, ...],
        cache: CacheFacts | None = None,
    ) -> None:
        """Add `counts` to the file, and replace the rest; without `cache` that stays. Blocks.

        Raises:
            HostError: it cannot be written; nothing was changed.
        """
        open_directory(self.path.parent, _LIST_MODE)
        with FileLock(self.path.with_suffix(".lock")).hold_blocking(_LOCK_TIMEOUT_S):
            before = _read(self.path)
            is_same = before is not None and before.data_dir == self._data_dir
            kept = before if is_same else None
            facts = NodeFacts(
                written_at=now_s,
                driver_version=driver_version,
                data_dir=self._data_dir,
                cache=cache or (None if kept is None else kept.cache),
                cache_at=now_s if cache else (None if kept is None else kept.cache_at),
                problems=problems,
                counts=counts if before is None else before.counts.plus(counts),
            )
            atomic.write_atomic(self.path, msgspec.json.encode(facts))


def node_file(paths: Paths) -> Path:
    """Return where it is."""
    return paths.run_dir / "node.json"


def read_node(paths: Paths) -> NodeFacts | None:
    """Return what the drivers of these directories have written; None if nothing can be read."""
    facts = _read(node_file(paths))
    return facts if facts is not None and facts.data_dir == paths.data else None


def _read(path: Path) -> NodeFacts | None:
    with contextlib.suppress(OSError, *DECODE_ERRORS):
        facts = msgspec.json.decode(beneath.read_published(path), type=NodeFacts)
        return facts if facts.version == NODE_VERSION else None
    return None


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted({*one, *other})}
