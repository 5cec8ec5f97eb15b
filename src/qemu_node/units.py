"""Sizes and durations as people write them, converted once at the edge.

Inside the program sizes are bytes and times are seconds.
"""

import re

from qemu_node.errors import ConfigError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SIZE = re.compile(r"^\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)(?:i?B)?\s*$", re.IGNORECASE)
_FACTORS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """Return the bytes that `text` names: `"50G"`, `"1.5 GiB"`, `"512M"`; units are powers of 1024.

    Raises:
        ConfigError: `text` is no size.
    """
    match = _SIZE.match(text)
    if match is None:
        raise ConfigError(f"{text!r} is not a size", hint='write it as "50G", "512M" or bytes')
    size_bytes = int(float(match["number"]) * _FACTORS[match["unit"].upper()])
    if size_bytes >= 1 << 63:
        raise ConfigError(f"{text!r} is larger than any disk", hint="sizes end at 8 EiB")
    return size_bytes


def parse_duration(text: str) -> float:
    """Return the seconds that `text` names, in Go's notation: `"5m"`, `"1h30m"`, `"500ms"`.

    Raises:
        ConfigError: `text` is no duration.
    """
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        raise ConfigError(f"{text!r} is not a duration", hint='write it as "30s", "5m" or "1h30m"')
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def format_size(size_bytes: int) -> str:
    """Return `size_bytes` for people: `"1.5 GiB"`."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
