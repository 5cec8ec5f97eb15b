"""The variables of a job file: declared types and defaults, and the values given from outside.

Owns precedence and conversion. Order as in Nomad, the last wins: default, NOMAD_VAR_x in the
environment, -var-file in order, -var. Source: Nomad's jobspec2/types.variables.go.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import JobError
from qemu_node.run.jobfile.convert import MismatchError, Value, to_bool, to_number, to_string
from qemu_node.run.jobfile.evaluation import Evaluator
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

ENV_PREFIX = "NOMAD_VAR_"


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
    declared: dict[str, _Declared] = {}
    for variable in _declarations(body):
        if variable.name in declared:
            raise variable.at.error(f"the variable {variable.name!r} is declared twice")
        declared[variable.name] = variable
    values: dict[str, Value] = {}
    for name, variable in declared.items():
        if variable.default is not None:
            value = _constant(variable.default.expression, variable.default.source)
            values[name] = _convert_to_declared(value, variable)
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
    for name, variable in declared.items():
        if name not in values:
            raise variable.at.error(
                f"variable {name!r} has no value and no default", hint=f"give -var {name}=…"
            )
    return values


def _declarations(body: Body) -> Iterator[_Declared]:
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
    """Return a value given as text: a string, or HCL where the declared type is no scalar."""
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
    wanted = "of its default's type"
    try:
        if variable.type is None:
            return _convert_like(value, _default(variable))
        wanted = variable.type.source.text_of(variable.type.expression)
        return _convert(value, variable.type.expression, variable.type.source)
    except MismatchError as exc:
        raise variable.at.error(
            f"variable {variable.name!r} is {wanted}, but its value {exc}"
        ) from exc


def _default(variable: _Declared) -> Value:
    default = variable.default
    return None if default is None else _constant(default.expression, default.source)


def _is_given_as_string(variable: _Declared) -> bool:
    """Tell whether a value on the command line is text as it stands, not an HCL expression."""
    if variable.type is not None:
        return variable.type.source.text_of(variable.type.expression) in ("string", "number")
    return not isinstance(_default(variable), bool | list | dict)


def _convert_like(value: Value, default: Value) -> Value:
    """Return `value` as the type of `default`: a variable's type where none is declared."""
    match default:
        case bool():
            return to_bool(value)
        case int() | float():
            return to_number(value)
        case str():
            return to_string(value)
        case dict():
            given = _object(value)
            return {key: _convert_like(_member(given, key), item) for key, item in default.items()}
        case list():
            if not isinstance(value, list) or len(value) != len(default):
                raise MismatchError(f"is not a list of {len(default)}, as its default is")
            return [_convert_like(*pair) for pair in zip(value, default, strict=True)]
        case _:
            return value


def _convert(value: Value, type_node: Node, source: Source) -> Value:
    """Return `value` as the type that `type_node` names: cty's conversions between scalars."""
    inner = subtrees(type_node)
    if type_node.data == "expr_term":
        return _convert(value, inner[0], source)
    if value is None:
        return None
    if type_node.data == "identifier":
        return _scalar(value, source.text_of(type_node), type_node, source)
    if type_node.data == "function_call":
        constructor = source.text_of(inner[0])
        argument = subtrees(inner[1])[0]
        if constructor in ("list", "set"):
            if not isinstance(value, list):
                raise MismatchError("is not a list")
            items = [_convert(item, argument, source) for item in value]
            return items if constructor == "list" else sorted(set(items))
        if constructor == "tuple":
            types = subtrees(subtrees(argument)[0])
            if not isinstance(value, list) or len(value) != len(types):
                raise MismatchError(f"is not a list of {len(types)}")
            return [_convert(*pair, source) for pair in zip(value, types, strict=True)]
        if constructor == "map":
            return {key: _convert(item, argument, source) for key, item in _object(value).items()}
        if constructor == "object":
            return _members(_object(value), argument, source)
    raise source.error(
        type_node,
        f"the type {source.text_of(type_node)} is not supported here",
        hint="string, number, bool, list(…), set(…), map(…), tuple([…]) and object({…}) are",
    )


def _object(value: Value) -> dict[str, Value]:
    if not isinstance(value, dict):
        raise MismatchError("is not an object")
    return value


def _members(value: dict[str, Value], argument: Node, source: Source) -> dict[str, Value]:
    """Return the attributes of `value` that `object({…})` names, each converted."""
    result: dict[str, Value] = {}
    for element in subtrees(subtrees(argument)[0]):
        key_node, type_node = subtrees(element)
        key = source.text_of(key_node).strip('" ')
        result[key] = _convert(_member(value, key), type_node, source)
    return result


def _member(value: dict[str, Value], key: str) -> Value:
    if key not in value:
        raise MismatchError(f"lacks {key!r}")
    return value[key]


def _scalar(value: Value, name: str, node: Node, source: Source) -> Value:
    if name not in _SCALARS:
        raise source.error(node, f"there is no type {name}")
    return _SCALARS[name](value)


_SCALARS: dict[str, Callable[[Value], Value]] = {
    "string": to_string,
    "number": to_number,
    "bool": to_bool,
}
