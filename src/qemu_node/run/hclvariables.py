"""The variables of a job file: declared types and defaults, and the values given from outside.

Owns precedence and conversion. Order as in Nomad, the last wins: default, NOMAD_VAR_x in the
environment, -var-file in order, -var. Source: Nomad's jobspec2/types.variables.go.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qemu_node.errors import JobError
from qemu_node.run.hcleval import Evaluator, Value
from qemu_node.run.hclsyntax import (
    Block,
    Body,
    Node,
    Source,
    parse_body,
    parse_expression,
    subtrees,
)

ENV_PREFIX = "NOMAD_VAR_"


def resolve_variables(
    body: Body,
    *,
    env: Mapping[str, str],
    var_files: Sequence[Path],
    arguments: Sequence[str],
) -> dict[str, Value]:
    """Return the value of every `variable` block of `body`.

    Args:
        body: The job file.
        env: The environment; only `NOMAD_VAR_…` counts.
        var_files: Files of `name = value`, in order.
        arguments: `name=value`, as given with -var.

    Raises:
        JobError: a value is missing, of the wrong type, or for a variable that is not declared.
    """
    blocks = {_name(block): block for block in body.blocks_of("variable")}
    values: dict[str, Value] = {}
    for name, block in blocks.items():
        if "default" in block.body.attributes:
            attribute = block.body.attributes["default"]
            value = _constant(attribute.expression, attribute.source)
            values[name] = _convert_to_declared(value, block, name)
    for key, text in env.items():
        name = key.removeprefix(ENV_PREFIX)
        if key.startswith(ENV_PREFIX) and name in blocks:
            values[name] = _from_text(text, blocks[name], f"{key} in the environment")
    for path in var_files:
        values.update(_from_file(path, blocks))
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise JobError(f"-var {argument!r} has no value", hint="write it as -var name=value")
        if name not in blocks:
            raise JobError(
                f"-var {name}: the job file declares no such variable", hint=_known(blocks)
            )
        values[name] = _from_text(text, blocks[name], f"-var {name}")
    for name, block in blocks.items():
        if name not in values:
            raise block.error(
                f"variable {name!r} has no value and no default", hint=f"give -var {name}=…"
            )
    return values


def _name(block: Block) -> str:
    if len(block.labels) != 1:
        raise block.error("a variable block has one label, its name")
    if block.body.blocks_of("validation"):
        raise block.error(
            f"variable {block.labels[0]!r}: validation blocks cannot be evaluated here",
            hint="install the `nomad` program, which evaluates all of HCL",
        )
    return block.labels[0]


def _known(blocks: Mapping[str, Block]) -> str:
    return f"declared: {', '.join(sorted(blocks))}" if blocks else "it declares none"


def _constant(node: Node, source: Source) -> Value:
    """Return the value of an expression that may refer to nothing."""

    def no_local(name: str) -> Value:
        raise KeyError(name)

    return Evaluator({}, no_local, Path()).evaluate(node, source)


def _from_text(text: str, block: Block, origin: str) -> Value:
    """Return a value given as text: a string, or HCL where the declared type is no scalar."""
    if _is_given_as_string(block):
        value: Value = text
    else:
        value = _constant(*parse_expression(Source(origin, text)))
    return _convert_to_declared(value, block, block.labels[0])


def _from_file(path: Path, blocks: Mapping[str, Block]) -> dict[str, Value]:
    try:
        source = Source(str(path), path.read_text())
    except OSError as exc:
        raise JobError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise JobError(f"{path} is not UTF-8 text") from exc
    body = parse_body(source)
    for block in body.blocks:
        raise block.error("a variable file holds `name = value` lines only")
    values: dict[str, Value] = {}
    for name, attribute in body.attributes.items():
        # Nomad only warns of a name that the job does not declare.
        if name in blocks:
            value = _constant(attribute.expression, source)
            values[name] = _convert_to_declared(value, blocks[name], name)
    return values


def _convert_to_declared(value: Value, block: Block, name: str) -> Value:
    declared = block.body.attributes.get("type")
    wanted = "of its default's type"
    try:
        if declared is None:
            return _convert_like(value, _default(block))
        wanted = declared.source.text_of(declared.expression)
        return _convert(value, declared.expression, declared.source)
    except _MismatchError as exc:
        raise block.error(f"variable {name!r} is {wanted}, but its value {exc}") from exc


def _default(block: Block) -> Value:
    attribute = block.body.attributes.get("default")
    return None if attribute is None else _constant(attribute.expression, attribute.source)


def _is_given_as_string(block: Block) -> bool:
    """Tell whether a value on the command line is text as it stands, not an HCL expression."""
    declared = block.body.attributes.get("type")
    if declared is not None:
        return declared.source.text_of(declared.expression) in ("string", "number")
    default = _default(block)
    return not isinstance(default, bool | list | dict)


def _convert_like(value: Value, default: Value) -> Value:
    """Return `value` as the type of `default`: a variable's type where none is declared."""
    match default:
        case bool():
            return _to_bool(value)
        case int() | float():
            return _to_number(value)
        case str():
            return _to_string(value)
        case dict():
            given = _object(value)
            return {key: _convert_like(_member(given, key), item) for key, item in default.items()}
        case list():
            if not isinstance(value, list) or len(value) != len(default):
                raise _MismatchError(f"is not a list of {len(default)}, as its default is")
            return [_convert_like(*pair) for pair in zip(value, default, strict=True)]
        case _:
            return value


class _MismatchError(ValueError):
    """A value cannot become the declared type; the text says what it is."""


def _convert(value: Any, type_node: Node, source: Source) -> Value:
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
                raise _MismatchError("is not a list")
            items = [_convert(item, argument, source) for item in value]
            return items if constructor == "list" else sorted(set(items))
        if constructor == "map":
            return {key: _convert(item, argument, source) for key, item in _object(value).items()}
        if constructor == "object":
            return _members(_object(value), argument, source)
    raise source.error(
        type_node,
        f"the type {source.text_of(type_node)} is not supported here",
        hint="string, number, bool, list(…), set(…), map(…) and object({…}) are",
    )


def _object(value: Value) -> dict[str, Value]:
    if not isinstance(value, dict):
        raise _MismatchError("is not an object")
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
        raise _MismatchError(f"lacks {key!r}")
    return value[key]


def _scalar(value: Value, name: str, node: Node, source: Source) -> Value:
    if name not in _SCALARS:
        raise source.error(node, f"there is no type {name}")
    return _SCALARS[name](value)


def _to_string(value: Value) -> str:
    if isinstance(value, list | dict):
        raise _MismatchError(f"is a {'list' if isinstance(value, list) else 'map'}")
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _to_number(value: Value) -> int | float:
    try:
        number = float(value) if isinstance(value, str | int | float) else None
    except ValueError:
        number = None
    if number is None or isinstance(value, bool):
        raise _MismatchError(f"{value!r} is not a number")
    return int(number) if number.is_integer() else number


def _to_bool(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise _MismatchError(f"{value!r} is not true or false")
    return bool(value == "true")


_SCALARS: dict[str, Callable[[Value], Value]] = {
    "string": _to_string,
    "number": _to_number,
    "bool": _to_bool,
}
