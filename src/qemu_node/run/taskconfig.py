"""A placement → the TaskConfig that a driver's StartTask gets, with its templates rendered.

Owns the order of Nomad's task hooks as far as VMs need them: directories, environment,
interpolation, templates, options. Source: Nomad's client/allocrunner/taskrunner (buildTaskConfig).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qemu_node.nomad.plugin.encoding import encode_config
from qemu_node.nomad.proto import driver_pb2
from qemu_node.nomad.proto.hclspec_pb2 import Spec
from qemu_node.run.allocdir import make_alloc_dir, read_source, write_rendered
from qemu_node.run.jobfile.consul_template import render
from qemu_node.run.jobfile.interpolation import interpolate_simple, interpolate_value
from qemu_node.run.jobfile.model import Template
from qemu_node.run.placement import Placement, TaskDirs, node_attributes, task_env
from qemu_node.units import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverFacts:
    """What a driver says about itself that decides how its tasks are prepared."""

    task_schema: Spec
    has_own_paths: bool
    """It shows a task its directories as `/local`, `/alloc`, `/secrets` (image isolation)."""


def prepare_task(
    placement: Placement, driver: DriverFacts, *, session: Path, node_id: str
) -> driver_pb2.TaskConfig:
    """Make the task's directories, render its templates, and return its TaskConfig.

    Raises:
        JobError: an option, a variable or a template is wrong; the message names the task.
        HostError: the host refused a directory or a file.
    """
    task = placement.task
    names = [other.name for other in placement.group.tasks]
    alloc_dir = make_alloc_dir(session, placement.alloc_id, names)
    attributes = node_attributes(placement.job, node_id)
    dirs = TaskDirs.inside() if driver.has_own_paths else TaskDirs.on_host(alloc_dir, task.name)
    env = _environment(placement, dirs, attributes)
    values = attributes | env
    task_dir = alloc_dir / task.name
    for number, template in enumerate(task.templates):
        _render(template, f"{placement.vm}: template {number + 1}", values, task_dir)
    config = interpolate_value(dict(task.config), values, f"{placement.vm}: config")
    logs = alloc_dir / "alloc" / "logs"
    return driver_pb2.TaskConfig(
        id=placement.task_id,
        name=task.name,
        msgpack_driver_config=encode_config(driver.task_schema, _mapping(config)),
        env=env,
        resources=_resources(placement),
        alloc_dir=str(alloc_dir),
        stdout_path=str(logs / f".{task.name}.stdout.fifo"),
        stderr_path=str(logs / f".{task.name}.stderr.fifo"),
        task_group_name=placement.group.name,
        job_name=placement.job.name,
        job_id=placement.job.id,
        alloc_id=placement.alloc_id,
        namespace=placement.job.namespace,
        node_name=os.uname().nodename,
        node_id=node_id,
    )


def _environment(
    placement: Placement, dirs: TaskDirs, attributes: Mapping[str, str]
) -> dict[str, str]:
    base = task_env(placement, dirs)
    values = {**attributes, **base}
    own = {
        key: interpolate_simple(value, values, f"{placement.vm}: env {key}")
        for key, value in placement.task.env.items()
    }
    return base | own


def _render(template: Template, where: str, values: Mapping[str, str], task_dir: Path) -> None:
    destination = interpolate_simple(template.destination, values, f"{where}: destination")
    text = template.data
    if text is None:
        source = interpolate_simple(template.source or "", values, f"{where}: source")
        text = read_source(source, task_dir, where)
    rendered = render(
        text,
        values,
        f"{where} ({destination})",
        left_delimiter=template.left_delimiter,
        right_delimiter=template.right_delimiter,
    )
    write_rendered(destination, rendered, template.perms, task_dir, where)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _resources(placement: Placement) -> driver_pb2.Resources:
    wanted = placement.task.resources
    cpuset = ",".join(map(str, placement.cpus))
    return driver_pb2.Resources(
        allocated_resources=driver_pb2.AllocatedTaskResources(
            cpu=driver_pb2.AllocatedCpuResources(cpu_shares=wanted.cpu_mhz),
            memory=driver_pb2.AllocatedMemoryResources(
                memory_mb=wanted.memory_mib, memory_max_mb=wanted.memory_max_mib
            ),
        ),
        linux_resources=driver_pb2.LinuxResources(
            cpu_shares=wanted.cpu_mhz,
            memory_limit_bytes=max(wanted.memory_mib, wanted.memory_max_mib) * MIB,
            cpuset_cpus=cpuset,
        ),
        ports=[
            driver_pb2.PortMapping(
                label=port.label, value=port.value, to=port.to, host_ip=port.host_ip
            )
            for port in placement.ports
        ],
    )
