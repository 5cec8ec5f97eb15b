"""This node: its version, its memory, its images, and what does not work on it.

Owns what is shown of it. What only root can read comes from the driver, with its age.
"""

import os
import socket
import time
from collections import Counter

import msgspec

from qemu_node.config.node import NodeConfig
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.version import VERSION
from qemu_node.vm.record.nodefile import CacheFacts
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.api.nomadtasks import NomadTasks
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.frame.route import Call, Route
from qemu_node.web.metrics.nodefigures import KsmView, MemoryOfNode, read_figures


class ImageView(msgspec.Struct, frozen=True, kw_only=True):
    """An image of the node's cache."""

    name: str
    digest: str
    size_bytes: int
    vms: int
    """How many VMs run on it."""
    is_pinned: bool
    is_outdated: bool


class CacheView(msgspec.Struct, frozen=True, kw_only=True):
    """The image cache, as the driver saw it last."""

    age_s: float
    count: int
    bytes: int
    """Space that the images take."""
    in_use: int
    """How many of them VMs run on."""


class OtherView(msgspec.Struct, frozen=True, kw_only=True):
    """What is there of a VM that is none yet, or cannot be read."""

    vm_id: str
    state: str


class NodeView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """This node."""

    name: str
    version: str
    kernel: str
    has_nomad: bool
    vms: dict[str, int]
    """State → how many."""
    others: list[OtherView] = []
    memory: MemoryOfNode | None = None
    ksm: KsmView | None = None
    """None: this kernel has none."""
    cache: CacheView | None = None
    """None: no driver has written it down yet."""
    images: list[ImageView] | None = None
    """The first of the cache, by name; None likewise."""
    problems: list[str] = []
    """What does not work at present."""


class NodeRoutes:
    """The handler."""

    def __init__(self, fleet: Fleet, nomad: NomadTasks, config: NodeConfig) -> None:
        self._fleet = fleet
        self._nomad = nomad
        self._config = config

    def routes(self) -> tuple[Route, ...]:
        """Return the table."""
        return (
            Route(
                method="GET",
                path="/api/v1/node",
                right=Right.NODE,
                handler=self._show,
                summary="Say how this node is.",
                answer=NodeView,
            ),
        )

    async def _show(self, _: Call) -> NodeView:
        vms = self._fleet.state().values()
        figures = await to_the_end(read_figures, self._config)
        driver = figures.driver
        cache = None if driver is None else driver.cache
        age_s = 0.0 if driver is None else time.time() - (driver.cache_at or driver.written_at)
        return NodeView(
            name=next((vm.node for vm in vms if vm.node), "") or socket.gethostname(),
            version=VERSION,
            kernel=os.uname().release,
            has_nomad=self._nomad.is_there,
            vms=dict(Counter(vm.state for vm in vms)),
            others=[
                OtherView(vm_id=vm_id, state=status.value)
                for vm_id, status in sorted(self._fleet.others().items())
            ],
            memory=figures.memory,
            ksm=figures.ksm,
            cache=None if cache is None else _cache(cache, age_s),
            images=None if cache is None else _images(cache),
            problems=[*self._fleet.troubles.lines(), *(driver.problems if driver else ())],
        )


def _cache(cache: CacheFacts, age_s: float) -> CacheView:
    return CacheView(
        age_s=round(max(age_s, 0.0), 1), count=cache.count, bytes=cache.bytes, in_use=cache.in_use
    )


def _images(cache: CacheFacts) -> list[ImageView]:
    return [
        ImageView(
            name=image.name,
            digest=image.digest,
            size_bytes=image.size_bytes,
            vms=image.vms,
            is_pinned=image.is_pinned,
            is_outdated=image.is_outdated,
        )
        for image in cache.images
    ]
