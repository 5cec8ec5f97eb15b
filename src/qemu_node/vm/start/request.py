"""What is asked of the node for one VM: a value, checked, free of Nomad's and QEMU's spelling."""

from dataclasses import dataclass
from pathlib import Path

from qemu_node.host.cgroup import ScopeLimits
from qemu_node.net.portspec import PortSpec, UserPort
from qemu_node.qemu.spec import Hardware, PortForward
from qemu_node.vm.names import TaskIdentity
from qemu_node.vm.record.record import HealthEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertise:
    """The NIC whose address Nomad's services are to have."""

    nic: int
    """Its place among the VM's."""
    wait_s: float
    """How long a start waits for the address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VMRequest:
    """One VM as a job wants it. Sizes in bytes."""

    task_id: str
    """Nomad's name for this start of the task."""
    identity: TaskIdentity
    alloc_dir: Path
    task_dir: Path
    image: str
    checksum: str | None
    disk_size_bytes: int | None
    """Grow the disk to this; None: the image's size."""
    hardware: Hardware
    memory_bytes: int
    """What the task may use in all, QEMU's own needs included."""
    memory_max_bytes: int
    nics: tuple[UserPort | PortSpec, ...]
    forwards: tuple[PortForward, ...]
    """Ports that lead to the NIC in user mode."""
    advertise: Advertise | None
    args: tuple[str, ...]
    allow_exec: bool
    health: HealthEndpoint | None
    scope: str
    """Nomad's `cpuset_cgroup`; empty or not of cgroup v2: no limits are set."""
    limits: ScopeLimits
    has_log: bool
    """Whether what it prints goes into the task's log."""

    @property
    def ports(self) -> list[PortSpec]:
        """The NICs that are ports of the bridge, in their order."""
        return [nic for nic in self.nics if isinstance(nic, PortSpec)]
