"""HCL's string templates, cut into literal text and expressions: pure.

Owns where an expression begins and ends. Does not own what it means: `hcleval` evaluates those of a
job file, `interpolate` those that Nomad leaves for the node.

Source: HCL's spec.md, "Template Expressions": `${…}` and `%{…}`, escaped as `$${` and `%%{`.
"""

from dataclasses import dataclass


class TemplateSyntaxError(ValueError):
    """A string template is torn; `offset` says where, in characters."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Literal:
    """Text as it stands, its `$${` and `%%{` already taken apart."""

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
