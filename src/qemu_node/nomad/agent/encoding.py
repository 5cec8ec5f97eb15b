"""A `config` block as an agent sends it to a plugin: checked by a schema, as MessagePack.

Pure. Does what Nomad's agent does with hcl2 and go-cty, for callers that replace an agent
(`qemu-node run`, tests). Does not own a schema: the plugin is asked for it.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import msgspec

from qemu_node.errors import JobError
from qemu_node.nomad.agent.cty import Conversion, MismatchError, to_bool, to_number, to_string
from qemu_node.nomad.proto.hclspec_pb2 import BlockList, Object, Spec
from qemu_node.text import nearest


class OptionError(JobError):
    """An option of a `config` block is wrong; `option` is its path in the block, `network[0].vlan`.

    Empty where the block as a whole is wrong.
    """

    def __init__(
        self, where: str, problem: str, *, name: str = "", hint: str | None = None
    ) -> None:
        super().__init__(f"{where}{problem}", hint=hint)
        self.option = f"{where}.{name}".removeprefix("config").strip(".")


def encode_config(schema: Spec, values: Mapping[str, Any]) -> bytes:
    """Return `values`, a `config` block, as an agent sends it to a plugin with `schema`.

    Every key of the schema is in the result, nil if it is not in `values`. A block may be a map
    or, as in a job's JSON, a list of maps.

    Raises:
        OptionError: a key is not in the schema, a required one is missing, or a value has another
            type.
    """
    return msgspec.msgpack.encode(_encode_object(schema.object, values, "config"))


def _encode_object(schema: Object, values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise OptionError(where, f": a block is required, not {values!r}")
    unknown = sorted(str(key) for key in values if key not in schema.attributes)
    if unknown:
        known = sorted(schema.attributes)
        near = nearest(unknown[0], known)
        raise OptionError(
            where,
            f': there is no option "{unknown[0]}"',
            name=unknown[0],
            hint=f'did you mean "{near}"?' if near else f"there are: {', '.join(known)}",
        )
    return {
        key: _encode(spec, values.get(key), f"{where}.{key}")
        for key, spec in sorted(schema.attributes.items())
    }


def _encode(spec: Spec, value: Any, where: str) -> Any:
    """Return `value` as go-cty encodes a value of `spec`."""
    match spec.WhichOneof("block"):
        case "attr":
            if value is None and spec.attr.required:
                raise OptionError(where, " is required and missing")
            return _convert(spec.attr.type, value, where)
        case "block_attrs":
            block_attrs = _only(value, where)
            if block_attrs is None:
                return None
            if not isinstance(block_attrs, Mapping):
                raise OptionError(where, f": a block of values is required, not {value!r}")
            hcl_type = spec.block_attrs.type
            return {
                _normal(str(key)): _convert(hcl_type, item, f"{where}.{key}")
                for key, item in sorted(block_attrs.items())
            }
        case "block_value":
            single = _only(value, where)
            nested = spec.block_value.nested.object
            return None if single is None else _encode_object(nested, single, where)
        case "block_list":
            return _encode_list(spec.block_list, value, where)
        case kind:
            raise OptionError(where, f": schemas with {kind} are not supported")


def _encode_list(spec: BlockList, value: Any, where: str) -> list[Any]:
    blocks = [] if value is None else value if _is_list(value) else [value]
    if spec.max_items and len(blocks) > spec.max_items:
        raise OptionError(
            where, f": at most {spec.max_items} blocks are allowed, not {len(blocks)}"
        )
    if len(blocks) < spec.min_items:
        raise OptionError(where, f": at least {spec.min_items} blocks are required")
    return [
        _encode_object(spec.nested.object, block, f"{where}[{n}]" if len(blocks) > 1 else where)
        for n, block in enumerate(blocks)
    ]


def _only(value: Any, where: str) -> Any:
    """Return the block in `value`, which may be a list of one block; None if there is none."""
    if not _is_list(value):
        return value
    if len(value) > 1:
        raise OptionError(where, f": only one block is allowed, not {len(value)}")
    return value[0] if value else None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _convert(hcl_type: str, value: Any, where: str) -> Any:
    """Return `value` converted as HCL converts it: numbers, truth values and strings both ways."""
    if value is None or hcl_type == "any":
        return value
    if hcl_type.startswith("list(") and _is_list(value):
        inner = hcl_type.removeprefix("list(").removesuffix(")")
        return [_convert(inner, item, f"{where}[{i}]") for i, item in enumerate(value)]
    try:
        return _SCALARS[hcl_type](value)
    except (KeyError, MismatchError) as exc:
        problem = f": a value of type {hcl_type} is required, not {value!r}"
        raise OptionError(where, problem) from exc


def _number(value: Any) -> int | float | str:
    """Return a number as go-cty writes it: as a string where no integer or float is the same."""
    number = to_number(value)
    if isinstance(number, int):
        return number if number in _INTEGERS else str(number)
    return number if Fraction(number) == Fraction(str(value)) else to_string(number)


_INTEGERS = range(-(1 << 63), 1 << 64)
_SCALARS: dict[str, Conversion] = {
    "string": lambda value: _normal(to_string(value)),
    "bool": to_bool,
    "number": _number,
}


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)
