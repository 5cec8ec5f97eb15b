"""What Nomad is told about this node: attributes for placement, and health with its reason.

Owns the names of the attributes, the judgement (pure, from facts), and reading the facts that are
quick to read. Does not own proving the accelerator (`qemu.accel`). Nomad stores every changed
attribute through Raft, so nothing that fluctuates is among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qemu_node.config.network import NetworkConfig
from qemu_node.config.node import NodeConfig, find_earlier_data
from qemu_node.config.web import WebConfig
from qemu_node.errors import HostError, MissingPartError, NodeError
from qemu_node.host.files.space import read_space
from qemu_node.nomad.proto import driver_pb2, structs_pb2
from qemu_node.qemu.firmware import find_firmware
from qemu_node.qemu.spec import FirmwareMode
from qemu_node.version import VERSION
from qemu_node.vm.hypervisor import Hypervisor

DRIVER_NAME = "vm"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """Facts about the host that are quick to read; `doctor` reads more (`nodefacts`)."""

    firmware_problems: dict[FirmwareMode, str] = field(default_factory=dict)
    """The modes for which no firmware is installed, each with the reason."""
    has_ksm: bool = False
    has_vhost_net: bool = False
    """The kernel can move frames between TAP and guest, and node.toml allows it."""
    has_cgroup2: bool = False
    is_disk_full: bool = False
    """The free space of the data directory's file system is below the reserve."""
    is_short_of_files: bool = False
    """One more VM would take open files that are needed to stop the others."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    console: str = ""
    """Where the node's console is: `https://host:port`, or `:port` of the node's own address."""
    network_problems: tuple[str, ...] = ()
    """Why VMs do not get the network of node.toml, and what to do about it."""
    vm_problems: tuple[str, ...] = ()
    """Messages about VMs that run without being managed."""
    earlier_data: str | None = None
    """What to do about files in the data directory of an earlier version."""

    @property
    def bridge(self) -> str:
        """The bridge that VMs can be ports of; empty if none works."""
        return "" if self.network_problems else self.network.bridge

    @property
    def vids(self) -> list[int]:
        """The VLANs that jobs can have on this node, ascending."""
        if not self.bridge:
            return []
        return sorted(self.network.vids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The driver's health and attributes."""

    is_healthy: bool
    description: str
    attributes: dict[str, str | bool]

    def to_response(self) -> driver_pb2.FingerprintResponse:
        """Return this in Nomad's form."""
        health = driver_pb2.FingerprintResponse.HealthState
        return driver_pb2.FingerprintResponse(
            attributes={
                name: structs_pb2.Attribute(bool_val=value)
                if isinstance(value, bool)
                else structs_pb2.Attribute(string_val=value)
                for name, value in self.attributes.items()
            },
            health=health.HEALTHY if self.is_healthy else health.UNHEALTHY,
            health_description=self.description,
        )


def build_fingerprint(
    hypervisor: Hypervisor | None, problem: NodeError | None, facts: HostFacts | None
) -> Fingerprint:
    """Return the driver's health and attributes.

    A node whose disk is full, or whose driver can open too few files, is not healthy, so that
    Nomad places VMs elsewhere. VMs that run go on. A node that lacks a firmware mode is healthy if
    it has the default one: the attributes keep jobs away that need the other. An attribute that
    does not hold, or is not known, is sent empty, because Nomad keeps an attribute that is left
    out.
    """
    attributes = _attributes(hypervisor, facts)
    if problem is None and facts is not None:
        problem = _problem_of(facts)
    is_healthy = problem is None and hypervisor is not None and facts is not None
    if problem is not None:
        text = problem.explain()
    else:
        text = _describe(hypervisor, facts) if hypervisor and facts else "QEMU was not found"
    if facts is not None:
        text = "; ".join(filter(None, (text, *facts.vm_problems, facts.earlier_data)))
    return Fingerprint(is_healthy=is_healthy, description=text, attributes=attributes)


def _problem_of(facts: HostFacts) -> NodeError | None:
    """Return why no VM is started on this host."""
    if secure_problem := facts.firmware_problems.get(FirmwareMode.SECURE_BOOT):
        return MissingPartError(secure_problem)
    if facts.network_problems and not facts.network.bridge and not facts.network.allow_host:
        # There is only user mode, and the node is not protected from it.
        return MissingPartError(facts.network_problems[0])
    # No figures: Nomad stores each change of the text through Raft.
    if facts.is_disk_full:
        return HostError(
            "the data disk is full: only its reserve is free, and no VM is started",
            hint="free space there, or set disk.reserve in node.toml",
        )
    if facts.is_short_of_files:
        return HostError(
            "the driver can open too few files for one more VM, and none is started",
            hint="raise LimitNOFILE of the agent's service",
        )
    return None


def _attributes(hypervisor: Hypervisor | None, facts: HostFacts | None) -> dict[str, str | bool]:
    values: dict[str, str | bool] = {
        "version": VERSION,
        "qemu": str(hypervisor.binary.version) if hypervisor else "",
        "accelerator": hypervisor.accelerator.value if hypervisor else "",
        "kvm_lost": hypervisor.is_kvm_lost if hypervisor else "",
        "firmware": "",
        "secure_boot": "",
        "ksm": "",
        "vhost": "",
        "bridge": "",
        "vlans": "",
        "cgroup_v2": "",
        "console": "",
    }
    if facts is not None:
        modes = [mode.value for mode in FirmwareMode if mode not in facts.firmware_problems]
        values |= {
            "firmware": ",".join(modes),
            "secure_boot": FirmwareMode.SECURE_BOOT.value in modes,
            "ksm": facts.has_ksm,
            "vhost": facts.has_vhost_net,
            "bridge": facts.bridge,
            # Each VLAN by itself, as a constraint's `set_contains` needs it.
            "vlans": ",".join(map(str, facts.vids)),
            "cgroup_v2": facts.has_cgroup2,
            "console": facts.console,
        }
    prefix = f"driver.{DRIVER_NAME}"
    return {prefix: True} | {f"{prefix}.{name}": value for name, value in values.items()}


def _describe(hypervisor: Hypervisor, facts: HostFacts) -> str:
    """Return the health text of a healthy node, with what would improve it."""
    text = f"QEMU {hypervisor.binary.version}, {hypervisor.accelerator.value}"
    if hypervisor.is_kvm_lost:
        text = (
            f"Degraded: KVM ran guests here before and does not now, so they are slow ({text}): "
            f"{hypervisor.kvm_problem}"
        )
    elif hypervisor.kvm_problem:
        text = f"Healthy: {text}, so guests are slow: {hypervisor.kvm_problem}"
    else:
        text = f"Healthy: {text}"
    if not facts.has_cgroup2:
        text += "; no cgroup v2: VMs run without limits"
    if facts.network_problems:
        text += f"; network: {'; '.join(facts.network_problems)}"
    return text


def read_host_facts(
    config: NodeConfig,
    network_problems: Sequence[str] = (),
    vm_problems: Sequence[str] = (),
    *,
    is_short_of_files: bool = False,
) -> HostFacts:
    """Read the facts. Never fails."""
    network = config.network
    directories = config.qemu.firmware_paths
    problems = {}
    for mode in FirmwareMode:
        try:
            find_firmware(mode, directories)
        except NodeError as exc:
            problems[mode] = exc.explain()
    return HostFacts(
        firmware_problems=problems,
        has_ksm=Path("/sys/kernel/mm/ksm/run").exists(),
        has_vhost_net=network.vhost != "off" and Path("/dev/vhost-net").exists(),
        has_cgroup2=Path("/sys/fs/cgroup/cgroup.controllers").exists(),
        network=network,
        console=console_of(config.web),
        network_problems=tuple(network_problems),
        vm_problems=tuple(vm_problems),
        earlier_data=find_earlier_data(config.paths),
        is_disk_full=_is_disk_full(config),
        is_short_of_files=is_short_of_files,
    )


def console_of(web: WebConfig) -> str:
    """Return where the other nodes' consoles find this node's; empty if it has none: pure.

    Behind a proxy that is the proxy's address. Else it is the port: which of its addresses a node
    is reached at is known to Nomad.
    """
    if not web.enabled:
        return ""
    return web.allowed_origins[0] if web.allowed_origins else f":{web.port}"


def _is_disk_full(config: NodeConfig) -> bool:
    try:
        return not read_space(Path(config.paths.data)).has_room(0, config.disk.reserved)
    except HostError:
        # The disk may be fine. A start will report what is wrong with it.
        return False
