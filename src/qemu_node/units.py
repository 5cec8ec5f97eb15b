"""Sizes and durations as people write them, converted once where they are read.

Inside the program sizes are bytes and times are seconds.
"""

import re
from dataclasses import dataclass

from qemu_node.errors import ConfigError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SIZE = re.compile(r"^\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)(?:i?B)?\s*$", re.IGNORECASE)
_FACTORS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_PERCENT = re.compile(r"^\s*(?P<pct>\d+(?:\.\d+)?)\s*%\s*$")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """Return the bytes in `text`: `"50G"`, `"1.5 GiB"`, `"512M"`. Units are powers of 1024.

    Raises:
        ConfigError: `text` is not a size.
    """
    match = _SIZE.match(text)
    if match is None:
        raise ConfigError(f"{text!r} is not a size", hint='write it as "50G", "512M" or bytes')
    size_bytes = int(float(match["number"]) * _FACTORS[match["unit"].upper()])
    if size_bytes >= 1 << 63:
        raise ConfigError(f"{text!r} is larger than any disk", hint="sizes end at 8 EiB")
    return size_bytes


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole whose size is known later: a percentage, or a number of bytes."""

    pct: float | None = None
    size_bytes: int = 0

    def of(self, total_bytes: int) -> int:
        """Return this part of `total_bytes` in bytes, never more than the whole."""
        wanted = self.size_bytes if self.pct is None else int(total_bytes * self.pct / 100)
        return min(wanted, total_bytes)


def parse_share(text: str) -> Share:
    """Return the share in `text`: `"10%"`, or a size such as `"20G"`.

    Raises:
        ConfigError: `text` is neither, or is more than 100 %.
    """
    match = _PERCENT.match(text)
    if match is None:
        try:
            return Share(size_bytes=parse_size(text))
        except ConfigError as exc:
            raise ConfigError(
                f"{text!r} is neither a share nor a size", hint='write it as "10%" or "20G"'
            ) from exc
    pct = float(match["pct"])
    if pct > 100:
        raise ConfigError(f"{text!r} is more than the whole", hint='write it as "10%" or "20G"')
    return Share(pct=pct)


def parse_duration(text: str) -> float:
    """Return the seconds in `text`, in Go's notation: `"5m"`, `"1h30m"`, `"500ms"`.

    Raises:
        ConfigError: `text` is not a duration.
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
