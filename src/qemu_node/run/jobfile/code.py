"""The structure of an HCL file: its text with strings, heredocs and comments blanked out. Pure.

Owns where each of them begins and ends. python-hcl2's grammar knows HCL's structure well and these
only in part: an end marker with a blank behind it, `/* … */` inside a line and names with letters
beyond ASCII are HCL too. Does not own what the strings mean (`hcleval`).

Source: hclsyntax/scan_tokens.rl.
"""

import re

from qemu_node.run.jobfile.template import TemplateSyntaxError, expression_end, string_end

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*|//[^\n]*|/\*.*?\*/)
      | <<(?:-?(?P<marker>[^\W\d][\w-]*)\r?\n)?
      | (?P<quote>")
      | (?P<letters>(?:(?![\x00-\x7f])\w)+)""",
    re.DOTALL | re.VERBOSE,
)
_INTERPOLATION = re.compile(r"\$\$\{|%%\{|[$%]\{|\n")


def structure_of(text: str) -> str:
    """Return `text`, character for character, with only its structure left as it is.

    Strings and heredocs are quoted dots, comments are blanks, letters beyond ASCII are `x`.

    Raises:
        TemplateSyntaxError: a string or heredoc has no end; the message and offset say which.
    """
    parts: list[str] = []
    position = 0
    while (match := _TOKEN.search(text, position)) is not None:
        start = match.start()
        parts.append(text[position:start])
        if match["comment"] is not None:
            position = match.end()
            parts.append(" " * (position - start))
        elif match[0] == "<<":
            raise TemplateSyntaxError("behind `<<` stands the heredoc's marker, a name", start)
        elif match["letters"] is not None:
            position = match.end()
            parts.append("x" * (position - start))
        else:
            if match["marker"] is not None:
                position = _heredoc_end(text, match)
            else:
                position = string_end(text, match.end()) + 1
            parts.append(f'"{"." * (position - start - 2)}"')
    parts.append(text[position:])
    return "".join(parts)


def _heredoc_end(text: str, opening: re.Match[str]) -> int:
    """Return the offset behind the end marker of the heredoc that `opening` begins.

    The marker stands alone on its line, whatever blanks are around it.
    """
    marker = opening["marker"]
    position = opening.end()
    while position < len(text):
        newline = text.find("\n", position)
        line = text[position:] if newline < 0 else text[position:newline]
        if line.strip() == marker:
            return position + line.index(marker) + len(marker)
        position = _next_line(text, position)
    raise TemplateSyntaxError(f"the heredoc has no line {marker!r}, its end", opening.start())


def _next_line(text: str, position: int) -> int:
    """Return the offset of the next line of a heredoc; newlines inside a `${…}` begin none."""
    while (match := _INTERPOLATION.search(text, position)) is not None:
        if match[0] == "\n":
            return match.end()
        position = match.end()
        if match[0] in ("${", "%{"):
            position = expression_end(text, position) + 1
    return len(text)
