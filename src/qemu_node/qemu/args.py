"""Raw QEMU options of a job: which may pass.

Pure. Owns reading a list of arguments as QEMU reads it, and judging it. Does not own which options,
devices and properties can be allowed at all (`argtables`), nor what the operator allows:
`[qemu] allow_args` of node.toml.

Two gates. First, closed lists: whatever is not on them may reach host files and sockets, loosen the
sandbox, or take from the driver what it must own, and a newer QEMU may add more of that kind. Then
the operator's regular expressions, one of which must match the option in full, written as on a
command line: `-device usb-audio`.
"""

import re
from collections.abc import Iterator, Sequence

from qemu_node.errors import ConfigError, JobError
from qemu_node.qemu import argtables

_GLOBAL = re.compile(r"(?P<driver>[^.=,]+)\.(?P<property>[^=,.]+)=(?P<value>.*)")
_NAME = re.compile(r"[A-Za-z0-9_.+-]+")


def check_args(args: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """Return a job's raw options as QEMU is to be given them.

    Args:
        args: The job's `args`: one argument an item, or an option with its value in one item.
        allowed: The operator's regular expressions.

    Raises:
        JobError: an option can never be allowed, matches no expression, or lacks its value; the
            message names it.
        ConfigError: one of the expressions is not valid.
    """
    patterns = [_compile(text) for text in allowed]
    checked: list[str] = []
    # Split all of them before one is judged: a word that is no value becomes a disk.
    for name, value in list(_options(_split(args))):
        option = f"-{name} {value}"
        reason = _why_never(name, value)
        if reason is not None:
            raise JobError(f"args: {option!r} can never be allowed: {reason}")
        if not any(pattern.fullmatch(option) for pattern in patterns):
            raise JobError(
                f"args: {option!r} is not allowed on this node",
                hint="the operator allows raw options in node.toml, [qemu] allow_args",
            )
        checked += [f"-{name}", value]
    return tuple(checked)


def _compile(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as exc:
        raise ConfigError(f"qemu.allow_args: {text!r} is no regular expression: {exc}") from exc


def _split(args: Sequence[str]) -> Iterator[str]:
    """Yield single arguments; an option and its value may have been written in one item."""
    for item in args:
        option, space, value = item.partition(" ")
        if item.startswith("-") and space:
            yield option
            yield value.strip()
        else:
            yield item


def _options(args: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield each option's name, without dashes, and its value, which QEMU takes whatever it is."""
    for arg in args:
        if not arg.startswith("-"):
            raise JobError(f"args: {arg!r} is no option; QEMU would open it as a disk")
        # QEMU takes one dash or two (softmmu/vl.c, lookup_opt).
        name = arg.removeprefix("-").removeprefix("-")
        if name not in argtables.OPTIONS:
            names = ", ".join(f"-{possible}" for possible in argtables.OPTIONS)
            raise JobError(f"args: {arg!r} can never be allowed", hint=f"only {names} can be")
        value = next(args, None)
        if value is None:
            raise JobError(f"args: {arg!r} lacks its value")
        yield name, value


def _why_never(name: str, value: str) -> str | None:
    """Return why this value must not reach QEMU; None where the operator may decide."""
    if not value.isprintable():
        return "it holds a control character"
    if value.startswith("{"):
        return "write it as key=value, which can be checked"
    match name:
        case "cpu":
            return _why_never_cpu(value)
        case "global":
            return _why_never_global(value)
        case "device":
            return _why_never_device(value)
        case _:
            # Only -icount and -fw_cfg name a first value that may stand without its key.
            first = {"icount": "shift", "fw_cfg": "name"}.get(name)
            return _why_never_keys(value, first, argtables.KEYS[name])


def _why_never_cpu(value: str) -> str | None:
    """A model and features: no feature of x86 names a file, only experimental ones are refused."""
    for part in value.split(","):
        feature = part.partition("=")[0].lstrip("+-")
        if not _NAME.fullmatch(feature) or feature.startswith("x-"):
            return f"{feature!r} is no CPU feature or an experimental one"
    return None


def _why_never_global(value: str) -> str | None:
    """`driver.property=value`, which QEMU reads before its other form (qemu_global_option)."""
    found = _GLOBAL.fullmatch(value)
    if found is None:
        return "write it as driver.property=value, which can be checked"
    if found["driver"] not in argtables.GLOBAL_DRIVERS:
        return f"{found['driver']!r} is not among the devices that can be allowed"
    return _why_never_property(found["property"])


def _why_never_device(value: str) -> str | None:
    driver, *properties = _pairs(value, "driver")
    if driver[0] != "driver" or driver[1] not in argtables.DEVICES:
        return f"{driver[1] or driver[0]!r} is not among the devices that can be allowed"
    return next(filter(None, (_why_never_property(key) for key, _ in properties)), None)


def _why_never_property(key: str | None) -> str | None:
    if key in argtables.PROPERTIES:
        return None
    return f"{key!r} is not among the properties of devices that can be allowed"


def _why_never_keys(value: str, first: str | None, allowed: frozenset[str]) -> str | None:
    for key, _ in _pairs(value, first):
        if key not in allowed:
            return (
                f"{key!r} is not among the keys that can be allowed: {', '.join(sorted(allowed))}"
            )
    return None


def _pairs(value: str, first: str | None) -> list[tuple[str | None, str]]:
    """Return the keys and values as QEMU reads them (util/qemu-option.c, get_opt_name_value).

    `first` is the key of a first value that stands without one. Any other word without `=` is a
    flag to QEMU, and a comma behind it ends it even if doubled; no list has flags, so its key is
    None here.
    """
    pairs: list[tuple[str | None, str]] = []
    rest: str | None = value
    while rest is not None:
        key, equals, behind = rest.partition("=")
        if equals and "," not in key:
            text, rest = _take_value(behind)
            pairs.append((key, text))
        elif first is not None and not pairs:
            text, rest = _take_value(rest)
            pairs.append((first, text))
        else:
            flag, comma, behind = rest.partition(",")
            pairs.append((None, flag))
            rest = behind if comma else None
    return pairs


def _take_value(text: str) -> tuple[str, str | None]:
    """Return a value, in which a doubled comma is one, and what follows the comma after it."""
    value = ""
    while True:
        part, comma, rest = text.partition(",")
        value += part
        if not comma:
            return value, None
        if not rest.startswith(","):
            return value, rest
        value += ","
        text = rest[1:]
