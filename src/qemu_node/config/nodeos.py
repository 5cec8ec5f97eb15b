"""`[os]` of node.toml: where images of the node's system come from, and when they are installed.

Owns the names, defaults and checks of these settings. They matter only on a node that runs such an
image.
"""

import re

import msgspec

from qemu_node.errors import ConfigError
from qemu_node.units import parse_duration

_WINDOW = re.compile(
    r"(?P<days>[A-Za-z]{3}(?:-[A-Za-z]{3})?(?:,[A-Za-z]{3}(?:-[A-Za-z]{3})?)*)"
    r" (?P<start>[0-2][0-9]:[0-5][0-9])-(?P<end>[0-2][0-9]:[0-5][0-9])"
)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES = 24 * 60


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A maintenance window, in the node's local time."""

    days: frozenset[int]
    """The days on which it begins; Monday is 0."""
    start_min: int
    """Minutes after midnight."""
    length_min: int
    """More than 0; it may end on the next day."""


class OsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[os]`: upgrades of the node's operating system."""

    source: str = ""
    """`registry/repository:tag` of the image; empty: what the running image says."""
    key: str = ""
    """File with the public key (minisign) of whoever signs the images; empty: the image's own."""
    automatic: bool = False
    """Whether the node upgrades itself in its window."""
    window: str = "Mon-Sun 02:00-05:00"
    """When it may begin to: days and local time."""
    lock: str = "qemu-node/os"
    """Path of the Nomad variable by which one node goes at a time; empty: no such lock."""
    token_file: str = ""
    """File with an ACL token that may write this variable; empty: none is needed."""
    drain_timeout: str = "15m"
    """How long a drain may take before the node restarts anyway."""

    @property
    def drain_timeout_s(self) -> float:
        """`drain_timeout` in seconds."""
        return parse_duration(self.drain_timeout)

    @property
    def parsed_window(self) -> Window:
        """`window`, understood."""
        return parse_window(self.window)


def parse_window(text: str) -> Window:
    """Return the window that `text` names: "Sat,Sun 22:00-04:00". Pure.

    Raises:
        ConfigError: it names none.
    """
    match = _WINDOW.fullmatch(text.strip())
    wrong = ConfigError(
        f"os.window is no window: {text!r}", hint='write for example "Mon-Fri 02:00-05:00"'
    )
    if match is None:
        raise wrong
    days: set[int] = set()
    for part in match["days"].lower().split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise wrong
        begin, end = DAYS.index(first), DAYS.index(last or first)
        days |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    start_min, end_min = _minutes(match["start"]), _minutes(match["end"])
    if max(start_min, end_min) > _MINUTES:
        raise wrong
    return Window(
        days=frozenset(days),
        start_min=start_min % _MINUTES,
        length_min=(end_min - start_min) % _MINUTES or _MINUTES,
    )


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


_LOCK = re.compile(r"[A-Za-z0-9_~/-]{1,128}")


def check_os(settings: OsConfig) -> None:
    """Check what the types do not: values that make no sense.

    Raises:
        ConfigError: a value makes no sense; the message names the setting.
    """
    for name, path in (("key", settings.key), ("token_file", settings.token_file)):
        if path and not path.startswith("/"):
            raise ConfigError(f"os.{name} must be an absolute path, not {path!r}")
    # Nomad's rule for the path of a variable (nomad/structs/variables.go).
    if settings.lock and not _LOCK.fullmatch(settings.lock):
        raise ConfigError(f"os.lock is no path of a Nomad variable: {settings.lock!r}")
    if settings.lock == "nomad" or settings.lock.startswith("nomad/"):
        raise ConfigError("os.lock may not be below nomad/, which is Nomad's own")
    if settings.source and any(not (" " < c <= "~") for c in settings.source):
        raise ConfigError(f"os.source is no image of a registry: {settings.source!r}")
    _ = settings.drain_timeout_s, settings.parsed_window
