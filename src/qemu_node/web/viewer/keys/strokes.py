"""From text to strokes: pure.

Owns what can be pasted. Nothing is left out: text with a character that the layout does not have is
refused as a whole, before the first key.
"""

from qemu_node.web.http.problems import Problem
from qemu_node.web.viewer.keys.layouts import Layout, Stroke

TEXT_MAX_BYTES = 8 << 10
_SHOWN_MAX = 20


def plan_strokes(layout: Layout, text: str) -> list[tuple[Stroke, ...]]:
    """Return the strokes of each character of `text`, whose lines may end in either way.

    Raises:
        Problem: it is too long, or the layout lacks a character; all of them are named.
    """
    if len(text.encode(errors="surrogatepass")) > TEXT_MAX_BYTES:
        raise Problem(
            422,
            "cannot-type",
            f"the text has more than {TEXT_MAX_BYTES >> 10} KiB",
            hint="send long text over the network or the serial port",
        )
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    missing = list(dict.fromkeys(char for char in plain if char not in layout.strokes))
    if missing:
        shown = ", ".join(_describe(char) for char in missing[:_SHOWN_MAX])
        more = f" and {len(missing) - _SHOWN_MAX} more" if len(missing) > _SHOWN_MAX else ""
        raise Problem(
            422,
            "cannot-type",
            f"the layout {layout.name} has no key for {shown}{more}",
            hint="choose the layout that the guest has, or take these out",
        )
    return [layout.strokes[char] for char in plain]


def _describe(char: str) -> str:
    code = f"U+{ord(char):04X}"
    return f"{char} ({code})" if char.isprintable() and not char.isspace() else code
