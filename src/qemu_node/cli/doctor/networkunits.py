"""Which unit of systemd-networkd would take a VM's TAP: pure, from the text of the units.

Owns as much of `.network` files as that question needs (man 5 systemd.network). Does not own
finding the files (`netfacts`) nor what follows from the answer (`netchecks`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

# What a TAP is to networkd. A condition on anything else (MAC address, path, udev property, …)
# matches some device of the operator's, and no TAP.
_TAP_KIND, _TAP_TYPE, _TAP_DRIVER = "tun", "ether", "tun"
_YES = ("yes", "true", "on", "1", "y", "t")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A `.network` file."""

    path: str
    text: str

    @property
    def name(self) -> str:
        """Its file name, by which units are sorted and override each other."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taker:
    """The unit that networkd would apply to a TAP."""

    path: str
    is_unmanaged: bool
    """It tells networkd to leave the device alone."""


def find_taker(units: Iterable[Unit], ifname: str) -> Taker | None:
    """Return the first unit that matches the TAP `ifname`; None: networkd leaves it alone.

    Args:
        units: Of directories with precedence first: of two with one name the earlier one counts.
        ifname: The TAP.
    """
    by_name: dict[str, Unit] = {}
    for unit in units:
        by_name.setdefault(unit.name, unit)
    for _, unit in sorted(by_name.items()):
        settings = _parse(unit.text)
        if _matches(settings.get("Match", []), ifname):
            unmanaged = [value for key, value in settings.get("Link", []) if key == "Unmanaged"]
            is_unmanaged = bool(unmanaged) and unmanaged[-1].lower() in _YES
            return Taker(path=unit.path, is_unmanaged=is_unmanaged)
    return None


def _parse(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return the settings of each section, in their order."""
    found: dict[str, list[tuple[str, str]]] = {}
    section: list[tuple[str, str]] = []
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if line.startswith(("#", ";")):
            continue
        if line.startswith("[") and line.endswith("]"):
            section = found.setdefault(line[1:-1], [])
        elif "=" in line:
            key, _, value = line.partition("=")
            section.append((key.strip(), value.strip()))
    return found


def _matches(conditions: Sequence[tuple[str, str]], ifname: str) -> bool:
    """Tell whether all `conditions` of a section [Match] hold for a TAP; none at all match none."""
    words: dict[str, list[str]] = {}
    for key, value in conditions:
        # Assigning nothing takes back what was assigned before.
        words[key] = words.get(key, []) + value.split() if value else []
    actual = {"Name": ifname, "Kind": _TAP_KIND, "Type": _TAP_TYPE, "Driver": _TAP_DRIVER}
    wanted = {key: globs for key, globs in words.items() if globs}
    return bool(wanted) and all(_fits(globs, actual.get(key)) for key, globs in wanted.items())


def _fits(globs: Sequence[str], value: str | None) -> bool:
    """Tell whether a list of globs, inverted where it begins with "!", fits a value."""
    is_inverted = globs[0].startswith("!")
    bare = [glob.removeprefix("!") for glob in globs]
    has_match = value is not None and any(fnmatchcase(value, glob) for glob in bare)
    return has_match != is_inverted
