"""What a job file asks for, as far as its VMs need it: values, however the file was parsed.

Owns the vocabulary between the parsers and the placement. Does not own Nomad's defaults (`jobapi`)
nor the meaning of a task's `config`, which is the driver's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

DRIVER_NAME = "vm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port label of a group. `static` None: any free port; `to` 0: the same in the guest."""

    label: str
    static: int | None = None
    to: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A file rendered into the task directory before the start."""

    destination: str
    data: str | None = None
    """The template's text; None: it is read from `source`."""
    source: str | None = None
    left_delimiter: str = "{{"
    right_delimiter: str = "}}"
    perms: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a task may use."""

    cpu_mhz: int
    cores: int
    """Whole cores; 0: a share of all of them."""
    memory_mib: int
    memory_max_mib: int
    """0: none given; -1: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmTask:
    """A task of the driver `vm`."""

    name: str
    config: Mapping[str, object]
    """The driver's options as Nomad's API has them: a block is a list of objects."""
    env: Mapping[str, str]
    meta: Mapping[str, str]
    templates: tuple[Template, ...]
    resources: Resources
    kill_timeout_s: float
    kill_signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tasks that Nomad places together, `count` times."""

    name: str
    count: int
    meta: Mapping[str, str]
    ports: tuple[Port, ...]
    tasks: tuple[VmTask, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job with its VM tasks."""

    id: str
    name: str
    namespace: str
    region: str
    datacenter: str
    meta: Mapping[str, str]
    groups: tuple[Group, ...]
    skipped: tuple[str, ...] = field(default=())
    """Tasks of other drivers, as `group/task (driver)`."""
    notes: tuple[str, ...] = field(default=())
    """What the file asks of Nomad that has no meaning here, one line each."""
