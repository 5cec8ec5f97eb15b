"""Lists of Debian packages: what is asked for, and the record of what was installed. Pure.

The list (`osimage/packages`) has a name and its reason on each line: `name  # reason`. The record
(`….packages`) has a name, with its architecture where that is not the machine's, and a version.
"""

import re
from collections.abc import Iterable, Mapping

from osimage.build.errors import BuildError

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~:-]*")


def parse_list(text: str) -> list[str]:
    """Return the names of a list, sorted.

    Raises:
        BuildError: a line is no name, has no reason, or says the same as another.
    """
    names: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        name, _, reason = (part.strip() for part in line.partition("#"))
        if not name:
            continue
        if not _NAME.fullmatch(name):
            raise BuildError(f"line {number} of the package list: not a package: {name!r}")
        if not reason:
            raise BuildError(
                f"line {number} of the package list: {name} has no reason",
                hint="write it behind the name: name  # reason",
            )
        if name in names:
            raise BuildError(f"line {number} of the package list: {name} is there twice")
        names.append(name)
    return sorted(names)


def parse_record(text: str) -> dict[str, str]:
    """Return the versions of a record by package.

    Raises:
        BuildError: a line is not a package and its version.
    """
    versions: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split()
        is_entry = len(words) == 2 and _NAME.fullmatch(words[0]) and _VERSION.fullmatch(words[1])
        if not is_entry:
            raise BuildError(f"line {number} of the record is no package and version: {line!r}")
        versions[words[0]] = words[1]
    return versions


def format_record(versions: Mapping[str, str]) -> str:
    """Return the text of a record."""
    return "".join(f"{name} {version}\n" for name, version in sorted(versions.items()))


def pins(record: Mapping[str, str]) -> str:
    """Return apt preferences with which only the versions of a record are installed.

    Priority 1001 also replaces a newer version (apt_preferences(5)); what the record does not name
    is not installed at all.
    """
    entries = [("*", "release *", -1)]
    entries += [(name, f"version {version}", 1001) for name, version in sorted(record.items())]
    return "\n".join(
        f"Package: {name}\nPin: {pin}\nPin-Priority: {priority}\n"
        for name, pin, priority in entries
    )


def differences(record: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """Return how what is installed differs from the record, a line each; none if it is the same."""
    return [
        f"{name}: {record.get(name, 'not')} recorded, {installed.get(name, 'not')} installed"
        for name in _union(record, installed)
        if record.get(name) != installed.get(name)
    ]


def _union(*mappings: Iterable[str]) -> list[str]:
    return sorted({name for mapping in mappings for name in mapping})
