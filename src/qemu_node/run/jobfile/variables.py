"""The variables of a job file: declared types and defaults, and the values given from outside.

Owns precedence and conversion. Order as in Nomad, the last wins: default, NOMAD_VAR_x in the
environment, -var-file in order, -var. Source: Nomad's jobspec2/types.variables.go.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import JobError
from qemu_node.nomad.agent.cty import (
    Conversion,
    MismatchError,
    Value,
    list_of,
    map_of,
    object_of,
    optional,
    set_of,
    to_bool,
    to_number,
    to_string,
    tuple_of,
    type_of,
)
from qemu_node.run.jobfile.evaluation import Evaluator
from qemu_node.run.jobfile.job import ENV_PREFIX
from qemu_node.run.jobfile.syntax import (
    Attribute,
    Block,
    Body,
    Node,
    Source,
    parse_body,
    parse_expression,
    read_source,
    subtrees,
)


@dataclass(frozen=True, slots=True)
class _Declared:
    """A variable that the job file declares; without a type it has that of its default."""

    name: str
    default: Attribute | None
    type: Attribute | None
    at: Block | Attribute


def resolve_variables(
    body: Body,
    *,
    env: Mapping[str, str],
    var_files: Sequence[Path],
    arguments: Sequence[str],
) -> dict[str, Value]:
    """Return the value of every variable that `body` declares.

    Args:
        body: The job file.
        env: The environment; only `NOMAD_VAR_…` counts.
        var_files: Files of `name = value`, in order.
        arguments: `name=value`, as given with -var.

    Raises:
        JobError: a value is missing, of the wrong type, or for a variable that is not declared.
    """
    declared = _declarations(body)
    values = _given_values(declared, env=env, var_files=var_files, arguments=arguments)
    for name, variable in declared.items():
        if name in values:
            continue
        if variable.default is None:
            raise variable.at.error(
                f"variable {name!r} has no value and no default", hint=f"give -var {name}=…"
            )
        values[name] = _convert_to_declared(_default(variable), variable)
    return values


def variable_file(
    body: Body,
    *,
    env: Mapping[str, str],
    var_files: Sequence[Path],
    arguments: Sequence[str],
) -> str:
    """Return a file of variables with the values that are given from outside, defaults left out.

    Raises:
        JobError: as `resolve_variables`, but for a value that is missing.
    """
    values = _given_values(_declarations(body), env=env, var_files=var_files, arguments=arguments)
    return "".join(f"{name} = {_as_hcl(value)}\n" for name, value in values.items())


def _as_hcl(value: Value) -> str:
    """Return `value` as an HCL expression, which JSON is but for the templates in its strings."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("${", "$${").replace("%{", "%%{")


def _given_values(
    declared: Mapping[str, _Declared],
    *,
    env: Mapping[str, str],
    var_files: Sequence[Path],
    arguments: Sequence[str],
) -> dict[str, Value]:
    """Return the values from the environment, files and arguments, the last one of each name."""
    values: dict[str, Value] = {}
    for key, text in env.items():
        name = key.removeprefix(ENV_PREFIX)
        if key.startswith(ENV_PREFIX) and name in declared:
            values[name] = _from_text(text, declared[name], f"{key} in the environment")
    for path in var_files:
        values.update(_from_file(path, declared))
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise JobError(f"-var {argument!r} has no value", hint="write it as -var name=value")
        if name not in declared:
            raise JobError(
                f"-var {name}: the job file declares no such variable", hint=_known(declared)
            )
        values[name] = _from_text(text, declared[name], f"-var {name}")
    return values


def _declarations(body: Body) -> dict[str, _Declared]:
    """Return what a job file declares, by name."""
    declared: dict[str, _Declared] = {}
    for variable in _each_declaration(body):
        if variable.name in declared:
            raise variable.at.error(f"the variable {variable.name!r} is declared twice")
        declared[variable.name] = variable
    return declared


def _each_declaration(body: Body) -> Iterator[_Declared]:
    """Yield what the `variable` and `variables` blocks of a job file declare."""
    for block in body.blocks_of("variables"):
        for attribute in block.body.attributes.values():
            yield _Declared(attribute.name, attribute, None, attribute)
    for block in body.blocks_of("variable"):
        if len(block.labels) != 1:
            raise block.error("a variable block has one label, its name")
        if block.body.blocks_of("validation"):
            raise block.error(
                f"variable {block.labels[0]!r}: validation blocks cannot be evaluated here",
                hint="install the `nomad` program, which evaluates all of HCL",
            )
        attributes = block.body.attributes
        yield _Declared(block.labels[0], attributes.get("default"), attributes.get("type"), block)


def _known(declared: Mapping[str, _Declared]) -> str:
    return f"declared: {', '.join(sorted(declared))}" if declared else "it declares none"


def _constant(node: Node, source: Source) -> Value:
    """Return the value of an expression that may refer to nothing."""

    def no_local(name: str) -> Value:
        raise KeyError(name)

    return Evaluator({}, no_local, Path()).evaluate(node, source)


def _from_text(text: str, variable: _Declared, origin: str) -> Value:
    """Return a value given as text: as it stands for a string or number, else HCL."""
    if _is_given_as_string(variable):
        value: Value = text
    else:
        value = _constant(*parse_expression(Source(origin, text)))
    return _convert_to_declared(value, variable)


def _from_file(path: Path, declared: Mapping[str, _Declared]) -> dict[str, Value]:
    source = read_source(path)
    if source.text.lstrip().startswith("{"):
        return _from_json(source, declared)
    body = parse_body(source)
    for block in body.blocks:
        raise block.error("a variable file holds `name = value` lines only")
    values: dict[str, Value] = {}
    for name, attribute in body.attributes.items():
        # Nomad only warns of a name that the job does not declare.
        if name in declared:
            value = _constant(attribute.expression, source)
            values[name] = _convert_to_declared(value, declared[name])
    return values


def _from_json(source: Source, declared: Mapping[str, _Declared]) -> dict[str, Value]:
    try:
        values = json.loads(source.text)
    except (ValueError, RecursionError) as exc:
        raise JobError(f"{source.origin} is neither HCL nor JSON: {exc}") from exc
    return {
        name: _convert_to_declared(values[name], variable)
        for name, variable in declared.items()
        if name in values
    }


def _convert_to_declared(value: Value, variable: _Declared) -> Value:
    wanted = "of its default"
    if variable.type is not None:
        wanted = variable.type.source.text_of(variable.type.expression)
    try:
        return _conversion(variable)(value)
    except MismatchError as exc:
        raise variable.at.error(
            f"variable {variable.name!r} is of the type {wanted}: {exc}"
        ) from exc


def _conversion(variable: _Declared) -> Conversion:
    """Return the conversion to the type of `variable`; without one it has its default's."""
    if variable.type is None:
        return type_of(_default(variable))
    return _declared_type(variable.type.expression, variable.type.source)


def _default(variable: _Declared) -> Value:
    default = variable.default
    return None if default is None else _constant(default.expression, default.source)


def _is_given_as_string(variable: _Declared) -> bool:
    """Tell whether a value on the command line is text as it stands, not an HCL expression."""
    if variable.type is not None:
        return variable.type.source.text_of(variable.type.expression) in ("string", "number")
    return not isinstance(_default(variable), bool | list | dict)


def _declared_type(node: Node, source: Source) -> Conversion:
    """Return the conversion to the type that the expression `node` names; null has any type."""
    inner = subtrees(node)
    if node.data == "expr_term":
        return _declared_type(inner[0], source)
    text = source.text_of(node)
    if node.data == "identifier" and text in _SCALARS:
        return optional(_SCALARS[text])
    if node.data == "function_call":
        constructor = source.text_of(inner[0])
        argument = subtrees(inner[1])[0]
        if constructor in _COLLECTIONS:
            return optional(_COLLECTIONS[constructor](_declared_type(argument, source)))
        if constructor == "tuple":
            items = subtrees(subtrees(argument)[0])
            return optional(tuple_of([_declared_type(item, source) for item in items]))
        if constructor == "object":
            members = [subtrees(element) for element in subtrees(subtrees(argument)[0])]
            return optional(
                object_of(
                    {
                        source.text_of(key).strip('" '): _declared_type(type_, source)
                        for key, type_ in members
                    }
                )
            )
    raise source.error(
        node,
        f"the type {text} is not supported here",
        hint="string, number, bool, list(…), set(…), map(…), tuple([…]) and object({…}) are",
    )


_SCALARS: dict[str, Conversion] = {"string": to_string, "number": to_number, "bool": to_bool}
_COLLECTIONS = {"list": list_of, "set": set_of, "map": map_of}
