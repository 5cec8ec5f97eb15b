"""The text of HCL's quoted strings and heredocs: escapes and indentation. Pure."""

import re

from qemu_node.run.jobfile.template import Literal, Part

_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.|$)|\n", re.DOTALL)
_PLAIN_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


def unescape(text: str) -> str:
    r"""Return the inside of a quoted string with its `\n`, `\"`, `\u00e4` … resolved.

    Raises:
        ValueError: HCL has no such escape, or the string goes on in the next line.
    """

    def replace(match: re.Match[str]) -> str:
        escape = match[0][1:]
        if match[0] == "\n":
            raise ValueError(r"a quoted string ends on its line; write \n, or a heredoc")
        if len(escape) > 1 and (code := int(escape[1:], 16)) <= 0x10FFFF:
            return chr(code)
        if escape not in _PLAIN_ESCAPES:
            raise ValueError(f"there is no escape {match[0]!s} in HCL")
        return _PLAIN_ESCAPES[escape]

    return _ESCAPE.sub(replace, text)


def heredoc_text(raw: str) -> str:
    """Return the lines between a heredoc's markers, as written: `raw` ends with the end marker."""
    _, _, rest = raw.partition("\n")
    before, newline, _ = rest.rpartition("\n")
    return before + newline


def without_indentation(parts: list[Part]) -> list[Part]:
    """Return the parts of a `<<-` heredoc less the indentation that all its lines share.

    Blank lines neither count nor change; an expression at the start of a line counts as no
    indentation. Source: hclsyntax/parser_template.go, flushHeredocTemplateParts.
    """
    indentation: int | None = None
    starts_line = True
    for part in parts:
        if isinstance(part, Literal):
            if part.starts_line and not _is_blank_line(part.text):
                width = len(part.text) - len(part.text.lstrip())
                indentation = width if indentation is None else min(indentation, width)
            starts_line = part.text.endswith("\n")
        else:
            indentation = 0 if starts_line else indentation
            starts_line = False
    width = indentation or 0
    return [
        Literal(part.text[width:], part.starts_line)
        if isinstance(part, Literal) and part.starts_line and not _is_blank_line(part.text)
        else part
        for part in parts
    ]


def _is_blank_line(text: str) -> bool:
    return not text.strip() and text.endswith("\n")
