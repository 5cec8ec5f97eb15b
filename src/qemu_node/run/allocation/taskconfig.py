"""A placement → the TaskConfig that a driver's StartTask gets, with its templates rendered.

Owns the order of Nomad's task hooks as far as VMs need them: directories, environment, templates,
options; and filling in the `${…}` that a job file leaves for the node. Does not own the values
(`placement`).

Sources: Nomad's client/allocrunner/taskrunner (buildTaskConfig), helper/pluginutils/hclutils
(config: HCL templates over env, attr.*, node.*, meta.*), helper/args (env and paths).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import JobError
from qemu_node.nomad.agent.encoding import OptionError, encode_config
from qemu_node.nomad.proto import driver_pb2
from qemu_node.nomad.proto.hclspec_pb2 import Spec
from qemu_node.run.allocation.allocdir import make_alloc_dir, read_source, write_rendered
from qemu_node.run.allocation.placement import Placement, TaskDirs, node_attributes, task_env
from qemu_node.run.jobfile.consul_template import render
from qemu_node.run.jobfile.job import Template
from qemu_node.run.jobfile.template import Literal, TemplateSyntaxError, split_template
from qemu_node.units import MIB

_TRAVERSAL = re.compile(r"[A-Za-z_][\w-]*(?:\.[\w-]+)*")
_INDEXED = re.compile(r'(?P<root>env|attr|meta)\s*\[\s*"(?P<key>[^"\\]*)"\s*\]')
_SIMPLE = re.compile(r"\$\{([a-zA-Z0-9_.-]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverFacts:
    """What a driver says about itself that decides how its tasks are prepared."""

    task_schema: Spec
    has_own_paths: bool
    """It shows a task its directories as `/local`, `/alloc`, `/secrets` (image isolation)."""
    attributes: Mapping[str, str]
    """What it says of the node, as `driver.vm.accelerator`."""


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
    attributes = node_attributes(placement.job, node_id, driver.attributes)
    dirs = TaskDirs.inside() if driver.has_own_paths else TaskDirs.on_host(alloc_dir, task.name)
    env = _environment(placement, dirs, attributes)
    values = attributes | env
    task_dir = alloc_dir / task.name
    for number, template in enumerate(task.templates):
        _render(template, f"{placement.vm}: template {number + 1}", values, task_dir)
    where = f"{placement.vm}: config"
    config = {
        key: interpolate_value(value, values, f"{where}.{key}")
        for key, value in task.config.items()
    }
    try:
        options = encode_config(driver.task_schema, config)
    except OptionError as exc:
        raise JobError(f"{_place_of(exc.option, placement)}{exc}", hint=exc.hint) from exc
    logs = alloc_dir / "alloc" / "logs"
    return driver_pb2.TaskConfig(
        id=placement.task_id,
        name=task.name,
        msgpack_driver_config=options,
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


def _place_of(option: str, placement: Placement) -> str:
    """Return `file:line: ` of an option, or nothing where its line is not known."""
    # Imported here: only a job with a mistake needs the parser.
    from qemu_node.run.jobfile.syntax import option_line

    job = placement.job
    line = option_line(job.text, placement.group.name, placement.task.name, option)
    return f"{job.origin}:{line}: " if line is not None else ""


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


def interpolate(text: str, values: Mapping[str, str], where: str) -> str:
    """Return `text` with every `${…}` replaced; `where` names the option in errors.

    `values` holds environment variables and dotted names such as `attr.kernel.name`; `env["X"]` is
    the variable X.

    Raises:
        JobError: a name is not in `values`, a `${` has no end, or an expression is more than a
            name.
    """
    try:
        parts = split_template(text)
    except TemplateSyntaxError as exc:
        raise JobError(f"{where}: {exc} in {_shorten(text)!r}") from exc
    return "".join(
        part.text if isinstance(part, Literal) else _lookup(part.source.strip(), values, where)
        for part in parts
    )


def interpolate_value(value: object, values: Mapping[str, str], where: str) -> object:
    """Return `value` with every string in it, however deep, interpolated; keys stay as they are."""
    match value:
        case str():
            return interpolate(value, values, where)
        case Mapping():
            return {
                key: interpolate_value(item, values, f"{where}.{key}")
                for key, item in value.items()
            }
        case list() | tuple():
            return [
                interpolate_value(item, values, f"{where}[{n}]") for n, item in enumerate(value)
            ]
        case _:
            return value


def interpolate_simple(text: str, values: Mapping[str, str], where: str) -> str:
    """Return `text` with `${NAME}` replaced as Nomad does in env values and paths.

    There are no escapes and no expressions: everything else, also `$${`, is plain text.

    Raises:
        JobError: a name is not in `values`. Nomad would leave the text as it is.
    """

    def replace(match: re.Match[str]) -> str:
        return _lookup(match[1], values, where)

    return _SIMPLE.sub(replace, text)


def _lookup(name: str, values: Mapping[str, str], where: str) -> str:
    indexed = _INDEXED.fullmatch(name)
    if indexed is not None:
        root, key = indexed["root"], indexed["key"]
        name_in_values = key if root == "env" else f"{root}.{key}"
    elif _TRAVERSAL.fullmatch(name):
        name_in_values = name.removeprefix("env.").removeprefix("node.attr.")
        if name.startswith("node.attr."):
            name_in_values = f"attr.{name_in_values}"
    else:
        name_in_values = name if _SIMPLE.fullmatch(f"${{{name}}}") else ""
        if not name_in_values:
            raise JobError(
                f"{where}: cannot evaluate ${{{_shorten(name)}}}",
                hint="only names such as ${NOMAD_ALLOC_INDEX} are known once a job is placed",
            )
    if name_in_values not in values:
        raise JobError(f"{where}: there is no variable named ${{{_shorten(name)}}}")
    return values[name_in_values]


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
