"""The line of node.toml at which what is wrong with it begins: pure.

Python's parser of TOML keeps no positions, and what is wrong may be a key, a value, or two of them
that contradict each other. So it is found by judging ever longer beginnings of the file.
"""

from collections.abc import Callable

from qemu_node.config.node import NodeConfig, SettingError, parse
from qemu_node.errors import ConfigError

Check = Callable[[NodeConfig], None]

_LINES_MAX = 300
"""Each line costs a millisecond; a longer file is not searched."""

_INCOMPLETE = ""


def with_line(error: SettingError, check: Check = lambda _config: None) -> ConfigError:
    """Return `error` with its line, where that is found.

    Args:
        error: What is wrong.
        check: Raises ConfigError for what `parse` accepts.
    """
    line = line_of(error.text, check)
    if line is None:
        return error
    return ConfigError(f"{error.origin}:{line}: {error.problem}", hint=error.hint)


def line_of(text: str, check: Check) -> int | None:
    """Return where the statement begins that gives `text` its problem.

    None for a text that is too long, no TOML, or without a problem.
    """
    lines = text.split("\n")
    if len(lines) > _LINES_MAX:
        return None
    said = {end: _problem("\n".join(lines[:end]), check) for end in range(len(lines) + 1)}
    problem = said[len(lines)]
    if problem is None or problem == _INCOMPLETE:
        return None
    # A statement of several lines is complete with its last one.
    complete = {end: found for end, found in said.items() if found != _INCOMPLETE}
    last_good = max((end for end, found in complete.items() if found is None), default=-1)
    # Half a table may lack what comes below: that is another problem.
    bad = min(end for end, found in complete.items() if end > last_good and found == problem)
    return max((end for end in complete if end < bad), default=0) + 1


def _problem(text: str, check: Check) -> str | None:
    """Return what is wrong with a beginning of the file; `_INCOMPLETE` if it ends in a value."""
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
