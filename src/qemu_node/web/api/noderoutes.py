"""This node: its version, its memory, its images, and what does not work on it.

Owns what may be read without root. What only root can read is absent, and `problems` says why.
"""

import os
import socket
from collections import Counter
from pathlib import Path

import msgspec

from qemu_node.config.node import NodeConfig
from qemu_node.errors import NodeError
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.store.keptimage import KeptImage, file_name
from qemu_node.version import VERSION
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.api.nomadtasks import NomadTasks
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.frame.route import Call, Route

_KSM = Path("/sys/kernel/mm/ksm")
_MEMINFO = Path("/proc/meminfo")
_IMAGES_MAX = 500


class KsmView(msgspec.Struct, frozen=True, kw_only=True):
    """Kernel same-page merging (Linux, admin-guide/mm/ksm.rst)."""

    is_running: bool
    merged_bytes: int
    """What it saves."""
    shared_bytes: int
    """What the merged pages take."""
    full_scans: int


class MemoryOfNode(msgspec.Struct, frozen=True, kw_only=True):
    """The node's memory."""

    total_bytes: int
    available_bytes: int


class ImageView(msgspec.Struct, frozen=True, kw_only=True):
    """An image of the node's cache."""

    name: str
    digest: str
    size_bytes: int
    vms: int
    """How many VMs run on it."""
    is_pinned: bool
    is_outdated: bool


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
    images: list[ImageView] | None = None
    """None: only root can read them."""
    problems: list[str] = []
    """What does not work at present."""


class NodeRoutes:
    """The handler."""

    def __init__(self, fleet: Fleet, nomad: NomadTasks, config: NodeConfig) -> None:
        self._fleet = fleet
        self._nomad = nomad
        paths = config.paths
        self._keeper = ImageKeeper(paths.images_dir, paths.vm_data_dir, config.images)

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
        problems = self._fleet.troubles.lines()
        images: list[ImageView] | None = None
        try:
            kept = await to_the_end(self._keeper.images)
            images = [_image(image) for image in kept[:_IMAGES_MAX]]
        except PermissionError:
            pass
        except (NodeError, OSError) as exc:
            problems.append(f"the images cannot be read: {exc}")
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
            memory=parse_meminfo(_read(_MEMINFO)),
            ksm=read_ksm(_KSM),
            images=images,
            problems=problems,
        )


def parse_meminfo(text: str) -> MemoryOfNode | None:
    """Return the memory that /proc/meminfo tells (man 5 proc); None if it does not: pure."""
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number = rest.strip().partition(" ")[0]
        if number.isascii() and number.isdigit():
            sizes[name] = int(number) * 1024
    try:
        return MemoryOfNode(total_bytes=sizes["MemTotal"], available_bytes=sizes["MemAvailable"])
    except KeyError:
        return None


def read_ksm(directory: Path) -> KsmView | None:
    """Return what the kernel says of KSM in `directory`; None if it has none."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    try:
        return KsmView(
            is_running=int(_read(directory / "run")) == 1,
            merged_bytes=int(_read(directory / "pages_sharing")) * page_bytes,
            shared_bytes=int(_read(directory / "pages_shared")) * page_bytes,
            full_scans=int(_read(directory / "full_scans")),
        )
    except ValueError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _image(image: KeptImage) -> ImageView:
    return ImageView(
        name=file_name(image.label),
        digest=image.digest,
        size_bytes=image.blob.size_bytes,
        vms=len(image.users),
        is_pinned=image.is_pinned,
        is_outdated=image.is_outdated,
    )
