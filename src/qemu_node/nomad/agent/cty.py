"""HCL values and the conversions between their types: pure.

Owns which strings are numbers, booleans or durations, and the types of collections. Does not own
which argument has which type: a plugin's schema (`encoding`) and a job file (`run.jobfile`) say
that.

Sources: go-cty's convert/conversion_primitive.go and ParseNumberVal; Go's time.ParseDuration;
Nomad's jobspec2/hcl_conversions.go.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

Value = Any
"""str, int, float, bool, None, or a list or dict of such."""

Conversion = Callable[[Value], Value]
"""Returns its argument as a value of one type; raises MismatchError."""

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,300}", re.ASCII)
_DURATION = re.compile(r"(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+", re.ASCII)
_DURATION_PART = re.compile(r"([\d.]+)(\D+)", re.ASCII)
_NANOSECONDS = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9,
    "h": 3600 * 10**9,
}  # fmt: skip


class MismatchError(ValueError):
    """A value cannot be converted to the wanted type; the message says what it is."""


def parse_number(text: str) -> int | float:
    """Return the number in `text`, an int if it is whole."""
    if _INTEGER.fullmatch(text):
        return int(text)
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise MismatchError(f"{text!r} is not a number")
    return whole(number)


def whole(number: float) -> int | float:
    """Return `number`, as an int where it is whole."""
    return int(number) if float(number).is_integer() else number


def to_number(value: Value) -> int | float:
    """Return `value` as a number."""
    if isinstance(value, str):
        return parse_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MismatchError(f"{value!r} is not a number")
    return whole(value)


def to_int(value: Value) -> int:
    """Return `value` as a whole number."""
    number = to_number(value)
    if not isinstance(number, int):
        raise MismatchError(f"{value!r} is not a whole number")
    return number


def to_bool(value: Value) -> bool:
    """Return `value` as true or false."""
    if isinstance(value, bool):
        return value
    if value not in ("true", "1", "false", "0"):
        raise MismatchError(f"{value!r} is not true or false")
    return value in ("true", "1")


def to_string(value: Value) -> str:
    """Return `value` as HCL puts it into a string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    if isinstance(value, str | int):
        return str(value)
    kinds = {dict: "an object", type(None): "null"}
    raise MismatchError(f"{kinds.get(type(value), 'a list')} is not a string")


def to_nanoseconds(value: Value) -> int:
    """Return a duration, written as in Go (`1h30m`, `500ms`) or as nanoseconds."""
    if not isinstance(value, str):
        return to_int(value)
    digits = value.removeprefix("-").removeprefix("+")
    sign = -1 if value.startswith("-") else 1
    if digits == "0":
        return 0
    if not _DURATION.fullmatch(digits) or len(digits) > 100:
        raise MismatchError(f'{value!r} is not a duration such as "30s" or "1h30m"')
    parts = _DURATION_PART.findall(digits)
    return sign * sum(int(Decimal(number) * _NANOSECONDS[unit]) for number, unit in parts)


def optional(convert: Conversion) -> Conversion:
    """Return a conversion that leaves null, which has every type."""
    return lambda value: None if value is None else convert(value)


def list_of(item: Conversion) -> Conversion:
    """Return the conversion to a list whose items `item` converts."""
    return lambda value: [item(each) for each in _list(value)]


def set_of(item: Conversion) -> Conversion:
    """Return the conversion to a set, here a sorted list without doubles."""
    return lambda value: sorted({item(each) for each in _list(value)})


def tuple_of(items: Sequence[Conversion]) -> Conversion:
    """Return the conversion to a list of exactly these types."""

    def convert(value: Value) -> Value:
        if len(_list(value)) != len(items):
            raise MismatchError(f"{value!r} is not a list of {len(items)}")
        return [item(each) for item, each in zip(items, value, strict=True)]

    return convert


def map_of(item: Conversion) -> Conversion:
    """Return the conversion to an object whose values `item` converts."""
    return lambda value: {key: item(each) for key, each in _object(value).items()}


def object_of(members: Mapping[str, Conversion]) -> Conversion:
    """Return the conversion to an object with exactly these members; others are dropped."""

    def convert(value: Value) -> Value:
        missing = [key for key in members if key not in _object(value)]
        if missing:
            raise MismatchError(f"{value!r} lacks {missing[0]!r}")
        return {key: member(value[key]) for key, member in members.items()}

    return convert


def type_of(value: Value) -> Conversion:
    """Return the conversion to the type of `value`; null has no type and converts nothing."""
    match value:
        case bool():
            convert: Conversion = to_bool
        case int() | float():
            convert = to_number
        case str():
            convert = to_string
        case dict():
            convert = object_of({key: type_of(item) for key, item in value.items()})
        case list():
            convert = tuple_of([type_of(item) for item in value])
        case _:
            return lambda given: given
    return optional(convert)


def _list(value: Value) -> list[Value]:
    if not isinstance(value, list):
        raise MismatchError(f"{value!r} is not a list")
    return value


def _object(value: Value) -> dict[str, Value]:
    if not isinstance(value, dict):
        raise MismatchError(f"{value!r} is not an object")
    return value
