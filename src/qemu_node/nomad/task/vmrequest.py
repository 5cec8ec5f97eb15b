"""From Nomad's TaskConfig and the job's options to a `VMRequest`: pure.

Owns what the options mean in Nomad's terms: port labels, cores, memory, the task's directories.
"""

import os
from pathlib import Path

from qemu_node.config.network import NetworkConfig
from qemu_node.errors import JobError
from qemu_node.host.cgroup import ScopeLimits, memory_backstop_bytes
from qemu_node.nomad.proto import driver_pb2
from qemu_node.nomad.task.networkblocks import plan_advertise, plan_nics
from qemu_node.nomad.task.options import TaskOptions
from qemu_node.qemu.spec import Hardware, PortForward
from qemu_node.units import MIB
from qemu_node.vm.names import TaskIdentity
from qemu_node.vm.record.record import HealthEndpoint
from qemu_node.vm.start.request import VMRequest

_PIDS_MAX = 1024
"""Threads of one QEMU: vCPUs, I/O threads and at most 64 block workers per AioContext."""


def build_request(
    task: driver_pb2.TaskConfig,
    options: TaskOptions,
    *,
    merge_default: bool,
    network: NetworkConfig,
) -> VMRequest:
    """Return what `task` asks for, as far as `network`, the node's own, allows it.

    A job with `logs { disabled = true }` is known by its stdout_path (Nomad's logmon_hook.go).

    Raises:
        JobError: an option contradicts the job's resources or ports, or another one, or asks for a
            network that the operator does not give; it is named.
    """
    if task.user:
        raise JobError(
            f"the task's user is {task.user!r}, and a VM cannot be given one",
            hint="remove `user` from the task: each VM's QEMU runs as a user of its own",
        )
    resources = task.resources.allocated_resources
    linux = task.resources.linux_resources
    memory_bytes = resources.memory.memory_mb * MIB
    # memory_max is 0 unless oversubscription is on, and -1 for "no limit" (Nomad 1.11.2).
    memory_max_mb = resources.memory.memory_max_mb
    memory_max_bytes = max(memory_bytes, memory_max_mb * MIB)
    ports = {port.label: port for port in task.resources.ports}
    alloc_dir = Path(task.alloc_dir)
    identity = _identity(task)
    nics = plan_nics(options, identity, network)
    return VMRequest(
        task_id=task.id,
        identity=identity,
        alloc_dir=alloc_dir,
        task_dir=alloc_dir / task.name,
        image=options.image,
        checksum=options.checksum,
        disk_size_bytes=options.disk_size_bytes,
        hardware=Hardware(
            os=options.os,
            firmware=options.firmware,
            vcpus=options.cpus or len(parse_cpu_list(linux.cpuset_cpus)) or 1,
            merge=merge_default if options.merge is None else options.merge,
            watchdog=options.watchdog,
        ),
        memory_bytes=memory_bytes,
        memory_max_bytes=memory_max_bytes,
        nics=nics,
        forwards=_forwards(options, ports),
        advertise=plan_advertise(options, nics),
        args=options.args,
        allow_exec=options.allow_exec,
        health=_health(options, ports),
        scope=linux.cpuset_cgroup,
        limits=ScopeLimits(
            memory_max_bytes=None if memory_max_mb < 0 else memory_backstop_bytes(memory_max_bytes),
            cpu_shares=linux.cpu_shares,
            cpuset_cpus=linux.cpuset_cpus,
            pids_max=_PIDS_MAX,
        ),
        has_log=task.stdout_path != os.devnull,
    )


def _identity(task: driver_pb2.TaskConfig) -> TaskIdentity:
    index = task.env.get("NOMAD_ALLOC_INDEX", "")
    return TaskIdentity(
        alloc_id=task.alloc_id,
        namespace=task.namespace or "default",
        job_id=task.job_id,
        job_name=task.job_name,
        group=task.task_group_name,
        task=task.name,
        index=int(index) if index.isdigit() else None,
        node_name=task.node_name,
    )


def parse_cpu_list(text: str) -> list[int]:
    """Return the CPUs in a kernel list such as `"0-2,5"`; empty for `""`."""
    cpus: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus


def _forwards(
    options: TaskOptions, ports: dict[str, driver_pb2.PortMapping]
) -> tuple[PortForward, ...]:
    return tuple(
        PortForward(
            label=label,
            host_ip=_port("ports", label, ports).host_ip,
            host_port=_port("ports", label, ports).value,
            guest_port=guest_port,
        )
        for label, guest_port in sorted(options.ports.items())
    )


def _health(
    options: TaskOptions, ports: dict[str, driver_pb2.PortMapping]
) -> HealthEndpoint | None:
    label = options.health_port
    if label is None:
        return None
    port = _port("health_port", label, ports)
    return HealthEndpoint(host_ip=port.host_ip, port=port.value)


def _port(
    option: str, label: str, ports: dict[str, driver_pb2.PortMapping]
) -> driver_pb2.PortMapping:
    if label not in ports:
        known = ", ".join(sorted(ports)) or "none"
        raise JobError(
            f"{option}: the group has no port {label!r}; it has: {known}",
            hint=f'add `port "{label}" {{}}` to the group\'s network block',
        )
    return ports[label]
