"""What VMs need of the node they run on, gathered once and handed to each."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from qemu_node.config.node import NodeConfig
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.images.cache import ImageCache
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.prefetch import Prefetcher
from qemu_node.vm.hypervisor import Hypervisor
from qemu_node.vm.vmnetwork import Network

Tell = Callable[[str, dict[str, str]], None]
"""Receives a line for the task's events, with annotations. Nomad keeps the last ten: be sparing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What this process can give to VMs and to others of the host."""

    is_root: bool
    """Each VM gets a user of its own."""
    shared_gid: int | None
    """Group `qemu-node`, which may use the VMs' sockets; None: there is no such group."""
    kvm_gid: int | None
    """Group that may open /dev/kvm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeServices:
    """The services that VMs use, made of node.toml by the driver (`DriverRuntime`)."""

    config: NodeConfig
    """What node.toml says."""
    rights: Rights
    images: ImageCache
    keeper: ImageKeeper
    prefetcher: Prefetcher
    network: Network
    tasks: TaskOwner
    hypervisor: Callable[[], Awaitable[Hypervisor]]
    """Finds QEMU and proves the accelerator; quick after the first time.

    Raises MissingPartError where no guest can start."""
