"""The VMs of a job, with their identities, ports and environment: values, except for free ports.

Owns allocations, task ids, the `NOMAD_…` environment and node attributes, as Nomad's client gives
them (client/taskenv/env.go). Does not own directories (`allocdir`).
"""

import contextlib
import os
import platform
import random
import re
import secrets
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import JobError
from qemu_node.run.jobfile.job import Group, Job, Port, VmTask

HOST_IP = "127.0.0.1"
# Nomad's own range for dynamic ports (client min_dynamic_port, max_dynamic_port).
_DYNAMIC_PORTS = range(20000, 32001)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatedPort:
    """A port label with its port on this machine. `to` 0: the same in the guest."""

    label: str
    value: int
    to: int
    host_ip: str = HOST_IP


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One VM: a task of one allocation."""

    vm: str
    """Its name in messages: `group[index]`, and the task's name if the group has several."""
    job: Job
    group: Group
    task: VmTask
    alloc_id: str
    index: int
    task_id: str
    ports: tuple[AllocatedPort, ...]
    cpus: tuple[int, ...]
    """Host CPUs for `cores`; empty if the task has none."""

    @property
    def alloc_name(self) -> str:
        """Nomad's name of the allocation."""
        return f"{self.job.id}.{self.group.name}[{self.index}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDirs:
    """A task's directories as its environment names them."""

    alloc: str
    local: str
    secrets: str

    @classmethod
    def inside(cls) -> "TaskDirs":
        """Return the names that a driver with image isolation gives (Nomad: FSIsolationImage)."""
        return cls(alloc="/alloc", local="/local", secrets="/secrets")

    @classmethod
    def on_host(cls, alloc_dir: Path, task_name: str) -> "TaskDirs":
        """Return the host's paths, for a driver without file system isolation."""
        task_dir = alloc_dir / task_name
        return cls(
            alloc=str(alloc_dir / "alloc"),
            local=str(task_dir / "local"),
            secrets=str(task_dir / "secrets"),
        )


def place(
    job: Job,
    *,
    free_ports: Callable[[int], Sequence[int]],
    cpus: Sequence[int],
) -> list[Placement]:
    """Return every VM of `job`, the groups' counts honoured.

    Args:
        job: What to place.
        free_ports: Returns as many distinct free ports as asked for.
        cpus: CPUs of this machine that may be given to tasks with `cores`.

    Raises:
        JobError: a task wants more cores than there are.
    """
    placements: list[Placement] = []
    for group in job.groups:
        for index in range(group.count):
            alloc_id = str(uuid.uuid4())
            ports = _allocate(group.ports, free_ports)
            for task in group.tasks:
                label = f"{group.name}[{index}]"
                placements.append(
                    Placement(
                        vm=label if len(group.tasks) == 1 else f"{label}/{task.name}",
                        job=job,
                        group=group,
                        task=task,
                        alloc_id=alloc_id,
                        index=index,
                        task_id=f"{alloc_id}/{task.name}/{secrets.token_hex(4)}",
                        ports=ports,
                        cpus=_cores(task, cpus),
                    )
                )
    return placements


def _allocate(
    ports: Sequence[Port], free_ports: Callable[[int], Sequence[int]]
) -> tuple[AllocatedPort, ...]:
    dynamic = iter(free_ports(sum(1 for port in ports if port.static is None)))
    return tuple(
        AllocatedPort(
            label=port.label,
            value=next(dynamic) if port.static is None else port.static,
            to=max(port.to, 0),
        )
        for port in ports
    )


def _cores(task: VmTask, cpus: Sequence[int]) -> tuple[int, ...]:
    if task.resources.cores > len(cpus):
        raise JobError(
            f"task {task.name!r} wants {task.resources.cores} cores, this machine has {len(cpus)}"
        )
    return tuple(cpus[: task.resources.cores])


def pick_free_ports(count: int) -> list[int]:
    """Return `count` distinct TCP ports on which nothing listens at `HOST_IP`.

    Raises:
        JobError: there are not that many.
    """
    found: list[int] = []
    candidates = random.sample(_DYNAMIC_PORTS, len(_DYNAMIC_PORTS))
    with contextlib.ExitStack() as stack:
        for port in candidates:
            if len(found) == count:
                break
            # Each stays bound until all are found, so that another session does not pick it too.
            probe = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with contextlib.suppress(OSError):
                probe.bind((HOST_IP, port))
                found.append(port)
    if len(found) < count:
        raise JobError(f"there are no {count} free ports at {HOST_IP}")
    return found


def task_env(placement: Placement, dirs: TaskDirs) -> dict[str, str]:
    """Return the `NOMAD_…` variables of a task; its own `env` is not in it yet."""
    job, group, task = placement.job, placement.group, placement.task
    env = {
        "NOMAD_ALLOC_DIR": dirs.alloc,
        "NOMAD_TASK_DIR": dirs.local,
        "NOMAD_SECRETS_DIR": dirs.secrets,
        "NOMAD_MEMORY_LIMIT": str(task.resources.memory_mib),
        "NOMAD_CPU_LIMIT": str(task.resources.cpu_mhz),
        "NOMAD_ALLOC_ID": placement.alloc_id,
        "NOMAD_SHORT_ALLOC_ID": placement.alloc_id[:8],
        "NOMAD_ALLOC_NAME": placement.alloc_name,
        "NOMAD_ALLOC_INDEX": str(placement.index),
        "NOMAD_GROUP_NAME": group.name,
        "NOMAD_TASK_NAME": task.name,
        "NOMAD_JOB_ID": job.id,
        "NOMAD_JOB_NAME": job.name,
        "NOMAD_DC": job.datacenter,
        "NOMAD_NAMESPACE": job.namespace,
        "NOMAD_REGION": job.region,
    }
    if task.resources.memory_max_mib:
        env["NOMAD_MEMORY_MAX_LIMIT"] = str(task.resources.memory_max_mib)
    if placement.cpus:
        env["NOMAD_CPU_CORES"] = ",".join(map(str, placement.cpus))
    for port in placement.ports:
        env |= _port_env(port)
    for key, value in {**job.meta, **group.meta, **task.meta}.items():
        env[_clean(f"NOMAD_META_{key.upper()}")] = value
        env[_clean(f"NOMAD_META_{key}")] = value
    return env


def _port_env(port: AllocatedPort) -> dict[str, str]:
    inside = str(port.to or port.value)
    address = f"{port.host_ip}:{port.value}"
    return {
        _clean(f"NOMAD_{name}_{port.label}"): value
        for name, value in (
            ("ADDR", address),
            ("HOST_ADDR", address),
            ("IP", port.host_ip),
            ("HOST_IP", port.host_ip),
            ("PORT", inside),
            ("ALLOC_PORT", inside),
            ("HOST_PORT", str(port.value)),
        )
    }


def _clean(name: str) -> str:
    """Return `name` as Nomad makes it fit for a shell (helper.CleanEnvVar)."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def node_attributes(job: Job, node_id: str, driver: Mapping[str, str]) -> dict[str, str]:
    """Return what `${node.…}` and `${attr.…}` mean on this machine.

    They are those that a node of ours has under Nomad, less what only an agent knows. `driver` is
    what the driver says of the node.
    """
    system = os.uname()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(system.machine, system.machine)
    return {
        "node.unique.id": node_id,
        "node.unique.name": system.nodename,
        "node.datacenter": job.datacenter,
        "node.region": job.region,
        "node.class": "",
        "node.pool": "default",
        "attr.kernel.name": system.sysname.lower(),
        "attr.kernel.version": system.release,
        "attr.kernel.arch": system.machine,
        "attr.cpu.arch": machine,
        "attr.cpu.numcores": str(os.cpu_count() or 1),
        "attr.unique.hostname": system.nodename,
        "attr.unique.network.ip-address": HOST_IP,
        "attr.os.name": _os_release("ID"),
        "attr.os.version": _os_version(),
        "attr.memory.totalbytes": str(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        **{f"attr.{name}": value for name, value in driver.items()},
        # Nomad says so of every driver (client/node_updater.go).
        "attr.driver.vm": "1",
    }


def _os_version() -> str:
    """Return the system's version as Nomad's client has it (gopsutil): Debian's has a point."""
    if _os_release("ID") == "debian":
        with contextlib.suppress(OSError):
            return Path("/etc/debian_version").read_text().strip()
    return _os_release("VERSION_ID")


def _os_release(key: str) -> str:
    try:
        return platform.freedesktop_os_release().get(key, "")
    except OSError:
        return ""


def own_cpus() -> list[int]:
    """Return the CPUs that this process may use."""
    return sorted(os.sched_getaffinity(0))
