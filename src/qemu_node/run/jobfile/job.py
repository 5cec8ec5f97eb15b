"""What a job file asks for: values, made from Nomad's API form of a job. Pure.

Owns Nomad's defaults, and refusing what `qemu-node run` does not do. Does not own how HCL becomes
the API form (`reader`), nor the meaning of a task's `config`, which is the driver's.

Keys are those of Nomad's api/jobs.go and api/tasks.go, as `nomad job run -output` and job files in
JSON have them; a missing one and null mean the default there and here.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from qemu_node.errors import JobError
from qemu_node.nomad.agent.cty import MismatchError, to_nanoseconds, to_string

T = TypeVar("T")

DRIVER_NAME = "vm"
ENV_PREFIX = "NOMAD_VAR_"
"""What the name of an environment variable that gives a job file's variable a value begins with."""

# Defaults of Nomad 1.8 to 2.0: api/resources.go DefaultResources, api/tasks.go.
_DEFAULT_CPU_MHZ = 100
_DEFAULT_MEMORY_MIB = 300
_DEFAULT_KILL_TIMEOUT_S = 5.0
_COUNT_MAX = 50_000  # job_max_count of Nomad's servers, by default
_MHZ_PER_CORE = 1000
"""The `cpu_shares` of a reserved core; Nomad uses the core's clock rate."""

_PLAIN_NAME = re.compile(r"[^\0/]{1,200}")

REFUSED_OF_JOB = {
    "Periodic": "periodic jobs start at a time, not now",
    "ParameterizedJob": "parameterized jobs start by dispatch only",
    "Multiregion": "there is one node here",
}
REFUSED_OF_TASK = {
    "Artifacts": "nothing is fetched into the task directory; give `image` a URL or a path",
    "VolumeMounts": "volumes are not mounted",
    "Vault": "there is no Vault",
    "DispatchPayload": "there is no dispatch",
    "Secrets": "secret blocks are not read",
    "Lifecycle": "lifecycle hooks are not ordered",
    "Schedule": "schedules are not followed",
    "CSIPluginConfig": "a VM is not a storage plugin",
}
REFUSED_OF_RESOURCES = {
    "Devices": "device plugins are not asked",
    "Networks": "a port belongs in the group's network block",
}
_NOT_DONE = {
    "Services": "services are not registered",
    "Identity": "workload identities are not signed",
    "Identities": "workload identities are not signed",
    "Scaling": "scaling policies are not followed",
}


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
    origin: str = ""
    """The file's name, for errors."""
    text: str = field(default="", repr=False)
    """The file in HCL, where an error's line is found; empty for JSON."""


def job_from_api(raw: object, origin: str) -> Job:
    """Return the job in `raw`: `{"Job": {…}}` or the inner object; `origin` names it in errors.

    Raises:
        JobError: a value has the wrong type or makes no sense, or the job needs what only Nomad
            does.
    """
    if isinstance(raw, Mapping) and isinstance(raw.get("Job"), Mapping):
        raw = raw["Job"]
    reader = _Reader(raw, "job", origin)
    reader.refuse(REFUSED_OF_JOB)
    job_id = reader.text("ID")
    skipped: list[str] = []
    notes: list[str] = []
    is_system = reader.text("Type", "service") in ("system", "sysbatch")
    groups = [
        _group(item, notes, skipped, is_system=is_system)
        for item in reader.items("TaskGroups", "group")
    ]
    datacenters = [str(name) for name in reader.list("Datacenters") if "*" not in str(name)]
    return Job(
        id=job_id,
        name=reader.text("Name", job_id),
        namespace=reader.text("Namespace", "default"),
        region=reader.text("Region", "global"),
        datacenter=datacenters[0] if datacenters else "dc1",
        meta=reader.strings("Meta"),
        groups=tuple(group for group in groups if group.tasks),
        skipped=tuple(skipped),
        notes=tuple(notes),
        origin=origin,
    )


class _Reader:
    """One object of the API form; every error names the object and the key."""

    def __init__(self, raw: object, where: str, origin: str) -> None:
        self.where = where
        self.origin = origin
        if not isinstance(raw, Mapping):
            raise self.error("is not an object")
        self._raw: Mapping[str, Any] = raw

    def error(self, problem: str, *, hint: str | None = None) -> JobError:
        return JobError(f"{self.origin}: {self.where} {problem}", hint=hint)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        for key, reason in reasons.items():
            if self._raw.get(key):
                raise self.error(
                    f"has {key}, which `qemu-node run` does not support: {reason}",
                    hint="run this job under Nomad, or leave it out to try the VM",
                )

    def notes(self) -> list[str]:
        texts = {text: None for key, text in _NOT_DONE.items() if self._raw.get(key)}
        return [f"{self.where}: {text}" for text in texts]

    def name(self) -> str:
        name = self.text("Name")
        if not _PLAIN_NAME.fullmatch(name) or name in (".", ".."):
            raise self.error(f"has a name that cannot be a directory: {name!r}")
        return name

    def text(self, key: str, default: str | None = None) -> str:
        value = self._raw.get(key)
        if value is None or value == "":
            if default is None:
                raise self.error(f"has no {key}")
            return default
        if not isinstance(value, str):
            raise self.error(f"has {key} = {value!r}, which is not a string")
        return value

    def optional_text(self, key: str) -> str | None:
        return self.text(key, "") or None

    def number(self, key: str, default: int, *, at_least: int = 0) -> int:
        value = self._raw.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise self.error(f"has {key} = {value!r}, which is not a whole number ≥ {at_least}")
        return value

    def duration_s(self, key: str, default_s: float) -> float:
        # The API writes nanoseconds; people who write JSON by hand write "20s".
        value = self._raw.get(key)
        if value is None:
            return default_s
        nanoseconds = self._converted(key, value, to_nanoseconds)
        if nanoseconds < 0:
            raise self.error(f"has {key} = {value!r}, which is negative")
        return nanoseconds / 1e9

    def list(self, key: str) -> Sequence[Any]:
        value = self._raw.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.error(f"has {key}, which is not a list")
        return value

    def items(self, key: str, noun: str) -> "Iterator[_Reader]":
        for number, raw in enumerate(self.list(key)):
            name = raw.get("Name") if isinstance(raw, Mapping) else None
            prefix = "" if self.where == "job" else f"{self.where}, "
            label = f"{noun} {name!r}" if name else f"{noun} {number + 1}"
            yield _Reader(raw, prefix + label, self.origin)

    def strings(self, key: str) -> dict[str, str]:
        return {
            name: "" if item is None else self._converted(f"{key}.{name}", item, to_string)
            for name, item in self.mapping(key).items()
        }

    def mapping(self, key: str) -> dict[str, Any]:
        value = self._raw.get(key) or {}
        if not isinstance(value, Mapping):
            raise self.error(f"has {key}, which is not an object")
        return {str(name): item for name, item in value.items()}

    def _converted(self, key: str, value: object, convert: Callable[[object], T]) -> T:
        try:
            return convert(value)
        except MismatchError as exc:
            raise self.error(f"has {key}: {exc}") from exc

    def nested(self, key: str) -> "_Reader":
        return _Reader(self._raw.get(key) or {}, f"{self.where}, {key}", self.origin)


def _group(reader: _Reader, notes: list[str], skipped: list[str], *, is_system: bool) -> Group:
    name = reader.name()
    notes.extend(reader.notes())
    tasks = []
    for task_reader in reader.items("Tasks", "task"):
        driver = task_reader.text("Driver")
        if driver == DRIVER_NAME:
            notes.extend(task_reader.notes())
            tasks.append(_task(task_reader))
        else:
            skipped.append(f"{name}/{task_reader.name()} ({driver})")
    ports = _ports(reader) if tasks else ()
    count = 1 if is_system else reader.number("Count", 1)
    if count > _COUNT_MAX:
        raise reader.error(f"has count = {count}; Nomad takes {_COUNT_MAX} at most")
    for port in ports:
        if port.static is not None and count > 1:
            raise reader.error(
                f"has count = {count} and static port {port.label!r}, which only one VM can hold",
                hint="leave `static` out: each VM then gets a free port of this machine",
            )
    return Group(
        name=name, count=count, meta=reader.strings("Meta"), ports=ports, tasks=tuple(tasks)
    )


def _ports(reader: _Reader) -> tuple[Port, ...]:
    ports: list[Port] = []
    for network in reader.items("Networks", "network"):
        mode = network.text("Mode", "host")
        if mode != "host":
            raise network.error(
                f"has mode {mode!r}; `qemu-node run` knows only the host's network",
                hint="leave `mode` out of the group's network block",
            )
        for key in ("ReservedPorts", "DynamicPorts"):
            for port in network.items(key, "port"):
                static = port.number("Value", 0)
                # -1 asks for the number that the host gives (docs: network block), as 0 does here.
                to = max(port.number("To", 0, at_least=-1), 0)
                ports.append(Port(label=port.text("Label"), static=static or None, to=to))
    return tuple(ports)


def _task(reader: _Reader) -> VmTask:
    reader.refuse(REFUSED_OF_TASK)
    resources = reader.nested("Resources")
    resources.refuse(REFUSED_OF_RESOURCES)
    cores = resources.number("Cores", 0)
    default_mhz = cores * _MHZ_PER_CORE or _DEFAULT_CPU_MHZ
    return VmTask(
        name=reader.name(),
        config={key: item for key, item in reader.mapping("Config").items() if item is not None},
        env=reader.strings("Env"),
        meta=reader.strings("Meta"),
        templates=tuple(_template(item) for item in reader.items("Templates", "template")),
        resources=Resources(
            cpu_mhz=resources.number("CPU", 0, at_least=0) or default_mhz,
            cores=cores,
            memory_mib=resources.number("MemoryMB", _DEFAULT_MEMORY_MIB, at_least=10),
            memory_max_mib=resources.number("MemoryMaxMB", 0, at_least=-1),
        ),
        kill_timeout_s=reader.duration_s("KillTimeout", _DEFAULT_KILL_TIMEOUT_S),
        kill_signal=reader.text("KillSignal", ""),
    )


def _template(reader: _Reader) -> Template:
    reader.refuse({"Envvars": "a VM has no environment that templates could fill"})
    data = reader.optional_text("EmbeddedTmpl")
    source = reader.optional_text("SourcePath")
    if (data is None) == (source is None):
        raise reader.error("needs either data or source")
    perms = reader.text("Perms", "0644")
    if not re.fullmatch(r"0*[0-7]{1,4}", perms):  # strconv.ParseUint(perms, 8, 12)
        raise reader.error(f"has perms {perms!r}", hint='write it as "0644"')
    return Template(
        destination=reader.text("DestPath"),
        data=data,
        source=source,
        left_delimiter=reader.text("LeftDelim", "{{"),
        right_delimiter=reader.text("RightDelim", "}}"),
        perms=int(perms, 8),
    )
