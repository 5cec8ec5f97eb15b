"""The built-in reader: a job file in HCL → Nomad's API form of it, where there is no Nomad to ask.

Owns which blocks and arguments a job file may have. What cannot be evaluated, and what
`qemu-node run` does not do, is refused with file and line; what only concerns scheduling is
ignored.

Frozen: it reads what it reads today, as Nomad does, and learns no more of HCL. Faults are fixed; a
job that needs more is read by the nomad program or by an agent (`reader`).

Source: Nomad's api/jobs.go, api/tasks.go (hcl tags), jobspec2/parse_job.go.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qemu_node.nomad.agent.cty import (
    Conversion,
    MismatchError,
    Value,
    list_of,
    map_of,
    optional,
    to_bool,
    to_int,
    to_nanoseconds,
    to_string,
)
from qemu_node.run.jobfile.evaluation import Evaluator
from qemu_node.run.jobfile.job import REFUSED_OF_JOB, REFUSED_OF_RESOURCES, REFUSED_OF_TASK
from qemu_node.run.jobfile.syntax import (
    Attribute,
    Block,
    Body,
    HclError,
    Source,
    parse_body,
    read_source,
    subtrees,
)
from qemu_node.run.jobfile.variables import resolve_variables


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a block may contain: names as in HCL, and the API's keys of what is used here."""

    attributes: Mapping[str, str]
    ignored: str = ""
    """Names with blanks between them."""
    types: Mapping[str, Conversion] = field(default_factory=dict)
    """Conversions of the arguments that are not strings."""
    refused: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, str] = field(default_factory=dict)
    """`env`, `meta`: a block of arguments or an object."""
    nested: str = ""
    """Blocks that are read further, as `ignored`."""


_FILE = _Shape({}, "variable variables locals", nested="job")
_JOB = _Shape(
    {"id": "ID", "name": "Name", "namespace": "Namespace", "region": "Region", "type": "Type",
     "datacenters": "Datacenters"},
    "priority all_at_once node_pool constraint affinity spread update migrate reschedule ui "
    "consul_token vault_token consul_namespace vault_namespace vault secret",
    types={"datacenters": list_of(to_string)},
    refused={"periodic": "Periodic", "parameterized": "ParameterizedJob",
             "multiregion": "Multiregion"},
    maps={"meta": "Meta"},
    nested="group task",
)  # fmt: skip
_GROUP = _Shape(
    {"count": "Count"},
    "constraint affinity spread update migrate reschedule restart disconnect ephemeral_disk "
    "shutdown_delay max_run_duration stop_after_client_disconnect max_client_disconnect consul "
    "prevent_reschedule_on_lost volume vault secret",
    types={"count": to_int},
    maps={"meta": "Meta"},
    nested="network task service scaling",
)
_NETWORK = _Shape({"mode": "Mode"}, "device mbits dns hostname cni cidr ip", nested="port")
_PORT = _Shape(
    {"static": "Value", "to": "To"},
    "host_network ignore_collision",
    types={"static": to_int, "to": to_int},
)
_TASK = _Shape(
    {"driver": "Driver", "kill_timeout": "KillTimeout", "kill_signal": "KillSignal"},
    "user leader shutdown_delay kind constraint affinity restart logs consul action",
    types={"kill_timeout": to_nanoseconds},
    refused={"artifact": "Artifacts", "volume_mount": "VolumeMounts", "vault": "Vault",
             "dispatch_payload": "DispatchPayload", "secret": "Secrets",
             "lifecycle": "Lifecycle", "schedule": "Schedule", "csi_plugin": "CSIPluginConfig"},
    maps={"env": "Env", "meta": "Meta"},
    nested="config template resources service identity scaling",
)  # fmt: skip
_TEMPLATE = _Shape(
    {"data": "EmbeddedTmpl", "source": "SourcePath", "destination": "DestPath", "perms": "Perms",
     "left_delimiter": "LeftDelim", "right_delimiter": "RightDelim", "env": "Envvars"},
    "change_mode change_signal change_script splay once uid gid vault_grace wait "
    "error_on_missing_key",
    types={"env": to_bool},
)  # fmt: skip
_RESOURCES = _Shape(
    {"cpu": "CPU", "cores": "Cores", "memory": "MemoryMB", "memory_max": "MemoryMaxMB"},
    "disk iops numa secrets",
    types={"cpu": to_int, "cores": to_int, "memory": to_int, "memory_max": to_int},
    refused={"device": "Devices", "network": "Networks"},
)
_ONLY_ONCE = frozenset({"config", "resources", "env", "meta"})


def parse_hcl_job(
    path: Path,
    *,
    env: Mapping[str, str],
    var_files: Sequence[Path] = (),
    variables: Sequence[str] = (),
    text: str | None = None,
) -> dict[str, Value]:
    """Return the job in the file `path` as Nomad's API has it, as far as VMs need it.

    Args:
        path: The job file; `file()` starts from its directory.
        env: The environment, for `NOMAD_VAR_…`.
        var_files: Files of variable values.
        variables: `name=value` of the command line.
        text: The file's text, where it has been read already.

    Raises:
        JobError: it cannot be read or evaluated; the message begins with file and line.
    """
    body = parse_body(read_source(path) if text is None else Source(str(path), text))
    values = resolve_variables(body, env=env, var_files=var_files, arguments=variables)
    return _JobReader(body, values, path).read()


class _Locals:
    """The `locals` blocks of a file, each value computed when first asked for."""

    def __init__(self, body: Body) -> None:
        self._attributes: dict[str, Attribute] = {}
        for block in body.blocks_of("locals"):
            for name, attribute in block.body.attributes.items():
                if name in self._attributes:
                    raise attribute.error(f"the local value {name!r} is given twice")
                self._attributes[name] = attribute
        self._values: dict[str, Value] = {}
        self._pending: set[str] = set()
        self.evaluator: Evaluator

    def __call__(self, name: str) -> Value:
        if name not in self._values:
            attribute = self._attributes[name]
            if name in self._pending:
                raise attribute.error(f"the local value {name!r} depends on itself")
            self._pending.add(name)
            self._values[name] = self.evaluator.evaluate(attribute.expression, attribute.source)
        return self._values[name]


class _JobReader:
    """Turns the one job block of a file into the API form."""

    def __init__(self, body: Body, variables: Mapping[str, Value], path: Path) -> None:
        self._body = body
        self._path = path
        local_values = _Locals(body)
        self._evaluator = Evaluator(variables, local_values, path.parent)
        local_values.evaluator = self._evaluator

    def read(self) -> dict[str, Value]:
        self._fields(self._body, _FILE, {})
        jobs = self._body.blocks_of("job")
        if not jobs:
            raise HclError(str(self._path), 1, "there is no job block")
        if len(jobs) > 1:
            raise jobs[1].error("a second job block")
        label = _label(jobs[0])
        body = jobs[0].body
        fields = self._fields(body, _JOB, REFUSED_OF_JOB)
        inherited = _inherited(body)
        # A task right below the job is a group of its own (jobspec2/parse_job.go).
        groups = [
            {"Name": _label(block), "Tasks": [self._task(block, inherited)]}
            for block in body.blocks_of("task")
        ]
        groups += [self._group(block, inherited) for block in body.blocks_of("group")]
        return {"ID": label, "Name": label} | fields | {"TaskGroups": groups}

    def _group(self, block: Block, inherited: Mapping[str, Value]) -> dict[str, Value]:
        body = block.body
        inherited = {**inherited, **_inherited(body)}
        return self._fields(body, _GROUP, {}) | {
            "Name": _label(block),
            "Networks": [self._network(item) for item in body.blocks_of("network")],
            "Tasks": [self._task(item, inherited) for item in body.blocks_of("task")],
            "Services": _presence(body, "service"),
            "Scaling": _presence(body, "scaling"),
        }

    def _network(self, block: Block) -> dict[str, Value]:
        reserved: list[Value] = []
        dynamic: list[Value] = []
        for item in block.body.blocks_of("port"):
            port: dict[str, Value] = {"Label": _label(item)}
            port |= self._fields(item.body, _PORT, {})
            (reserved if port.get("Value", 0) > 0 else dynamic).append(port)
        fields = self._fields(block.body, _NETWORK, {})
        return fields | {"ReservedPorts": reserved, "DynamicPorts": dynamic}

    def _task(self, block: Block, inherited: Mapping[str, Value]) -> dict[str, Value]:
        body = block.body
        fields: dict[str, Value] = {"Name": _label(block)}
        driver = body.attributes.get("driver")
        if driver is None:
            raise block.error(f"task {fields['Name']!r} has no driver")
        fields["Driver"] = self._value(driver)
        if fields["Driver"] != "vm":
            # Another driver's task is skipped, so nothing in it needs to make sense here.
            return fields
        fields |= {**inherited, **self._fields(body, _TASK, REFUSED_OF_TASK)}
        for name, key, shape in (
            ("template", "Templates", _TEMPLATE),
            ("resources", "Resources", _RESOURCES),
        ):
            refusals = REFUSED_OF_RESOURCES if shape is _RESOURCES else {}
            items = [self._fields(item.body, shape, refusals) for item in body.blocks_of(name)]
            if items:
                fields[key] = items if key == "Templates" else items[0]
        fields["Config"] = {}
        for item in body.blocks_of("config"):
            fields["Config"] = self._config(item.body)
        fields["Services"] = _presence(body, "service")
        fields["Identities"] = _presence(body, "identity")
        return fields

    def _fields(self, body: Body, shape: _Shape, refusals: Mapping[str, str]) -> dict[str, Value]:
        """Return the arguments that are used, under the API's keys; refuse all unknown ones."""
        fields: dict[str, Value] = {}
        for name, attribute in body.attributes.items():
            if name in shape.attributes:
                value = self._converted(attribute, optional(shape.types.get(name, to_string)))
                if value is not None:
                    fields[shape.attributes[name]] = value
            elif name in shape.maps:
                fields[shape.maps[name]] = self._converted(attribute, optional(map_of(to_string)))
            elif name not in shape.ignored.split():
                raise attribute.error(f"there is no argument {name!r} here")
        seen = set(body.attributes)
        for block in body.blocks:
            if block.type in seen & _ONLY_ONCE:
                raise block.error(f"a second {block.type}")
            seen.add(block.type)
            if block.type in shape.maps:
                fields[shape.maps[block.type]] = {
                    name: self._converted(item, to_string)
                    for name, item in block.body.attributes.items()
                }
            elif block.type in shape.refused:
                raise block.error(
                    f"`qemu-node run` does not support {block.type}: "
                    f"{refusals[shape.refused[block.type]]}",
                    hint="run this job under Nomad, or leave it out to try the VM",
                )
            elif block.type == "dynamic":
                raise _dynamic(block)
            elif block.type not in f"{shape.ignored} {shape.nested}".split():
                raise block.error(f"there is no block {block.type!r} here")
        return fields

    def _config(self, body: Body) -> dict[str, Value]:
        """Return a config body as Nomad's API has it: blocks are lists of objects, labels keys."""
        fields: dict[str, Value] = {}
        for name, attribute in body.attributes.items():
            value = self._value(attribute)
            # An object written out is taken for a block (jobspec2/hclutil, BlocksAsAttrs).
            node = attribute.expression
            is_written_out = node.data == "expr_term" and subtrees(node)[0].data == "object"
            fields[name] = [value] if isinstance(value, dict) and is_written_out else value
        for block in body.blocks:
            if block.type == "dynamic":
                raise _dynamic(block)
            if block.type in body.attributes:
                raise block.error(f"{block.type} is given as an argument and as a block")
            item: Value = self._config(block.body)
            for label in reversed(block.labels):
                item = {label: [item]}
            fields.setdefault(block.type, []).append(item)
        return fields

    def _value(self, attribute: Attribute) -> Value:
        return self._evaluator.evaluate(attribute.expression, attribute.source)

    def _converted(self, attribute: Attribute, convert: Conversion) -> Value:
        value = self._value(attribute)
        try:
            return convert(value)
        except MismatchError as exc:
            raise attribute.error(f"{attribute.name}: {exc}") from exc


def _dynamic(block: Block) -> HclError:
    return block.error(
        "dynamic blocks cannot be evaluated here",
        hint="install the `nomad` program, which evaluates all of HCL",
    )


def _label(block: Block) -> str:
    if len(block.labels) != 1:
        raise block.error(f"a {block.type} block has one label, its name")
    return block.labels[0]


def _inherited(body: Body) -> dict[str, Value]:
    """Return what the tasks below a job or a group have from it."""
    return {
        key: _presence(body, name)
        for name, key in (("vault", "Vault"), ("secret", "Secrets"))
        if body.blocks_of(name)
    }


def _presence(body: Body, type_: str) -> list[Value]:
    return [{} for _ in body.blocks_of(type_)]
