"""HCL's strings and heredocs: escapes, indentation, and the `${…}` in them. Pure.

Owns where an expression begins and ends. Does not own what it means: `evaluation` computes those of
a job file, `run.allocation.taskconfig` fills in those that Nomad leaves for the node.

Source: HCL's spec.md, "Template Expressions": `${…}` and `%{…}`, escaped as `$${` and `%%{`.
"""

import re
from dataclasses import dataclass

_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.|$)|\n", re.DOTALL)
_PLAIN_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


class TemplateSyntaxError(ValueError):
    """A string or template has no end, or uses what is not supported, at `offset` characters."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Literal:
    """Plain text; the escapes `$${` and `%%{` are already replaced."""

    text: str
    starts_line: bool
    """It follows a newline of the template, or begins it."""


@dataclass(frozen=True, slots=True)
class Expression:
    """The inside of a `${…}`; `offset` is that of its first character in the template."""

    source: str
    offset: int


Part = Literal | Expression


def split_template(text: str) -> list[Part]:
    """Return the parts of `text`; literals are split after every newline.

    Raises:
        TemplateSyntaxError: a `${` has no end, or `text` uses `%{…}` directives or `~` strip marks,
            which are not supported.
    """
    parts: list[Part] = []
    buffer: list[str] = []
    starts_line = True
    position = 0

    def flush(*, at_newline: bool) -> None:
        nonlocal starts_line
        if buffer:
            parts.append(Literal("".join(buffer), starts_line))
            buffer.clear()
        starts_line = at_newline

    while position < len(text):
        pair = text[position : position + 2]
        if text[position : position + 3] in ("$${", "%%{"):
            buffer.append(text[position + 1 : position + 3])
            position += 3
        elif pair == "${":
            end = expression_end(text, position + 2)
            source = text[position + 2 : end]
            if source.startswith("~") or source.endswith("~"):
                raise TemplateSyntaxError("strip marks (${~ … ~}) are not supported", position)
            flush(at_newline=False)
            parts.append(Expression(source, position + 2))
            position = end + 1
        elif pair == "%{":
            raise TemplateSyntaxError("template directives (%{ … }) are not supported", position)
        else:
            buffer.append(text[position])
            if text[position] == "\n":
                flush(at_newline=True)
            position += 1
    flush(at_newline=False)
    return parts


def expression_end(text: str, start: int) -> int:
    """Return the offset of the `}` that ends the expression whose first character is at `start`."""
    depth = 0
    position = start
    while position < len(text):
        char = text[position]
        if char == '"':
            position = string_end(text, position + 1)
        elif char == "{":
            depth += 1
        elif char == "}":
            if depth == 0:
                return position
            depth -= 1
        position += 1
    raise TemplateSyntaxError("`${` without its `}`", start - 2)


def string_end(text: str, start: int) -> int:
    """Return the offset of the quote that ends the string whose first character is at `start`."""
    position = start
    while position < len(text):
        if text[position] == "\\":
            position += 2
        elif text[position : position + 3] == "$${":
            position += 3
        elif text[position : position + 2] == "${":
            position = expression_end(text, position + 2) + 1
        elif text[position] == '"':
            return position
        else:
            position += 1
    raise TemplateSyntaxError("a string without its closing quote", start - 1)


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
