"""Finding the line of node.toml that has an error: pure.

Python's TOML parser keeps no positions, and the error may be in a key, a value, or two values that
contradict each other. So this checks longer and longer beginnings of the file until the error
appears.
"""

from collections.abc import Callable

from qemu_node.config.node import NodeConfig, SettingError, parse
from qemu_node.errors import ConfigError

Check = Callable[[NodeConfig], None]

_LINES_MAX = 300
"""Each line costs a millisecond; a longer file is not searched."""

_INCOMPLETE = ""


def with_line(error: SettingError, check: Check = lambda _config: None) -> ConfigError:
    """Return `error` with its line, if the line is found.

    Args:
        error: The error.
        check: Further checks of what `parse` accepts; raises ConfigError.
    """
    line = line_of(error.text, check)
    if line is None:
        return error
    return ConfigError(f"{error.origin}:{line}: {error.problem}", hint=error.hint)


def line_of(text: str, check: Check) -> int | None:
    """Return the line at which the wrong statement in `text` begins.

    None if the text is too long, is not TOML, or has no error.
    """
    lines = text.split("\n")
    if len(lines) > _LINES_MAX:
        return None
    said = {end: _problem("\n".join(lines[:end]), check) for end in range(len(lines) + 1)}
    problem = said[len(lines)]
    if problem is None or problem == _INCOMPLETE:
        return None
    # A statement of several lines is complete only with its last line.
    complete = {end: found for end, found in said.items() if found != _INCOMPLETE}
    last_good = max((end for end, found in complete.items() if found is None), default=-1)
    # An incomplete table may lack a key that comes later: that is another error.
    bad = min(end for end, found in complete.items() if end > last_good and found == problem)
    return max((end for end in complete if end < bad), default=0) + 1


def _problem(text: str, check: Check) -> str | None:
    """Return the error in a beginning of the file; `_INCOMPLETE` if it ends inside a statement."""
    try:
        config = parse(text, "")
    except SettingError as exc:
        return exc.problem
    except ConfigError:
        return _INCOMPLETE
    try:
        check(config)
    except ConfigError as exc:
        return str(exc)
    return None
