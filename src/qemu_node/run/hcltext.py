"""The text of HCL's quoted strings and heredocs: escapes and indentation. Pure."""

import re

from qemu_node.run.hcltemplate import Literal, Part

_ESCAPE = re.compile(r'\\(?:u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[nrt"\\]|.)', re.DOTALL)
_PLAIN_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


def unescape(text: str) -> str:
    r"""Return the inside of a quoted string with its `\n`, `\"`, `\u00e4` … resolved."""

    def replace(match: re.Match[str]) -> str:
        escape = match[0][1:]
        if len(escape) > 1:
            code = int(escape[1:], 16)
            return chr(code) if code <= 0x10FFFF else match[0]
        return _PLAIN_ESCAPES.get(escape, match[0])

    return _ESCAPE.sub(replace, text)


def heredoc_text(raw: str) -> str:
    """Return the lines between a heredoc's markers, as written."""
    _, _, rest = raw.replace("\r\n", "\n").partition("\n")
    before, newline, _ = rest.rstrip().rpartition("\n")
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
