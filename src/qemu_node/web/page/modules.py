"""Which ES modules a module imports: pure.

Owns finding the modules that a browser needs before the page can begin, so that it asks for all of
them at once. Those of `import(…)` come later and do not count.
"""

import posixpath
import re
from collections.abc import Mapping

_IMPORT = re.compile(r"""\b(?:import|export)\b[^'"();]*?(?:\bfrom\s*)?["'](\.[^'"]*)["']""")


def imports_of(path: str, text: str) -> list[str]:
    """Return the paths of the modules that the module `path` imports.

    Args:
        path: Relative to the page's directory, with `/`.
        text: Of the module.
    """
    directory = posixpath.dirname(path)
    return [posixpath.normpath(posixpath.join(directory, found)) for found in _IMPORT.findall(text)]


def modules_of(entry: str, texts: Mapping[str, str]) -> list[str]:
    """Return `entry` and all modules that it needs, each once, the nearest first.

    Raises:
        KeyError: one of them is not among `texts`.
    """
    found = [entry]
    for path in found:
        found += [
            name for name in dict.fromkeys(imports_of(path, texts[path])) if name not in found
        ]
    return found
