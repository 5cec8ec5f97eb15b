"""HCL2 text → blocks and attributes with their lines.

Owns the contact with python-hcl2: its grammar and its parse tree (lark). The tree is made from the
structure of the text alone, its strings, heredocs and comments blanked out: python-hcl2 knows HCL's
structure well and these only in part. An end marker with a blank after it, `/* … */` inside a line
and names with letters beyond ASCII are HCL too. Does not own the meaning of an expression
(`evaluation`) or of a block (`builtin`).

Source: hclsyntax/scan_tokens.rl.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hcl2
from lark import Token, Tree
from lark.exceptions import UnexpectedInput

from qemu_node.errors import JobError
from qemu_node.run.jobfile.template import (
    TemplateSyntaxError,
    expression_end,
    string_end,
    unescape,
)

Node = Tree[Token]

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*|//[^\n]*|/\*.*?\*/)
      | <<(?:-?(?P<marker>[^\W\d][\w-]*)\r?\n)?
      | (?P<quote>")
      | (?P<letters>(?:(?![\x00-\x7f])\w)+)""",
    re.DOTALL | re.VERBOSE,
)
_INTERPOLATION = re.compile(r"\$\$\{|%%\{|[$%]\{|\n")


class HclError(JobError):
    """The file cannot be read as it is written; the message begins with `file:line:`."""

    def __init__(self, origin: str, line: int, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{origin}:{line}: {problem}", hint=hint)
        self.line = line


@dataclass(frozen=True, slots=True)
class Source:
    """HCL text and where it comes from. `first_line` is the line of its first character there."""

    origin: str
    text: str
    first_line: int = 1

    def line_of(self, node: Node) -> int:
        """Return the line of the file on which `node` begins."""
        return self.first_line + self.text.count("\n", 0, node.meta.start_pos)

    def text_of(self, node: Node) -> str:
        """Return `node` as it is written."""
        return self.text[node.meta.start_pos : node.meta.end_pos]

    def error(self, node: Node, problem: str, *, hint: str | None = None) -> HclError:
        """Return an error that names the file and the line of `node`."""
        return HclError(self.origin, self.line_of(node), problem, hint=hint)


@dataclass(frozen=True, slots=True)
class Attribute:
    """`name = expression`."""

    name: str
    expression: Node
    source: Source

    @property
    def line(self) -> int:
        """The line of the file on which its value begins."""
        return self.source.line_of(self.expression)

    def error(self, problem: str, *, hint: str | None = None) -> HclError:
        """Return an error at this attribute."""
        return self.source.error(self.expression, problem, hint=hint)


@dataclass(frozen=True, slots=True)
class Block:
    """`type "label" { … }`."""

    type: str
    labels: tuple[str, ...]
    body: "Body"
    node: Node
    source: Source

    @property
    def line(self) -> int:
        """The line of the file on which it begins."""
        return self.source.line_of(self.node)

    def error(self, problem: str, *, hint: str | None = None) -> HclError:
        """Return an error at the block's first line."""
        return self.source.error(self.node, problem, hint=hint)


@dataclass(frozen=True, slots=True)
class Body:
    """The inside of a file or a block; attributes are unique, blocks in order."""

    attributes: dict[str, Attribute]
    blocks: tuple[Block, ...]

    def blocks_of(self, type_: str) -> list[Block]:
        """Return the blocks of one type."""
        return [block for block in self.blocks if block.type == type_]


def read_source(path: Path) -> Source:
    """Return the text of the file `path`, byte for byte but for a byte order mark.

    Raises:
        JobError: it cannot be read, or is not UTF-8.
    """
    try:
        return Source(str(path), path.read_bytes().decode("utf-8-sig"))
    except OSError as exc:
        raise JobError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise JobError(f"{path} is not UTF-8 text") from exc


def parse_body(source: Source) -> Body:
    """Return the blocks and attributes of a whole file.

    Raises:
        HclError: the text is not HCL, or gives an attribute twice.
    """
    try:
        code = structure_of(source.text)
    except TemplateSyntaxError as exc:
        line = source.first_line + source.text.count("\n", 0, exc.offset)
        raise HclError(source.origin, line, str(exc)) from exc
    return _body(subtrees(_parse(code, source))[0], source, code)


def parse_expression(source: Source) -> tuple[Node, Source]:
    """Return a single expression, and the source that its nodes' positions refer to.

    Raises:
        HclError: the text is not an expression.
    """
    # The grammar knows whole files only, so the expression becomes an attribute of one.
    wrapped = Source(source.origin, f"x = {source.text.strip()}\n", source.first_line)
    body = parse_body(wrapped)
    if set(body.attributes) != {"x"} or body.blocks:
        raise HclError(source.origin, source.first_line, f"not an expression: {source.text!r}")
    return body.attributes["x"].expression, wrapped


def option_line(text: str, group: str, task: str, option: str) -> int | None:
    """Return the line of `text` on which an option of a task's `config` block is given.

    Args:
        text: A job file in HCL, whoever has read its values.
        group: The task's group.
        task: The task.
        option: The path of the option, as in `network[0].vlan`. Where it cannot be found to its
            end, as inside an expression, the line is that of the last step that is there.
    """
    try:
        body = parse_body(Source("", text))
    except HclError:
        return None
    jobs = [block.body for block in body.blocks_of("job")]
    groups = [g.body for job in jobs for g in job.blocks_of("group") if g.labels == (group,)]
    tasks = [t for body in [*groups, *jobs] for t in body.blocks_of("task") if t.labels == (task,)]
    found: Block | Attribute | None = next(
        (block for t in tasks for block in t.body.blocks_of("config")), None
    )
    for step in option.split("."):
        name, _, number = step.removesuffix("]").partition("[")
        if isinstance(found, Block):
            blocks = found.body.blocks_of(name)[int(number or 0) :]
            found = found.body.attributes.get(name) or (blocks[0] if blocks else found)
    return found.line if found is not None else None


def subtrees(node: Node) -> list[Node]:
    """Return the children of `node` that mean something: no tokens, newlines or comments."""
    return [
        child
        for child in node.children
        if isinstance(child, Tree) and child.data != "new_line_or_comment"
    ]


def tokens(node: Node) -> Iterator[Token]:
    """Yield the tokens directly below `node`."""
    return (child for child in node.children if isinstance(child, Token))


def _parse(code: str, source: Source) -> Node:
    # parses_to_tree ends the text with a newline, which a heredoc or a comment may lack.
    try:
        tree: Node = hcl2.parses_to_tree(code)
    except UnexpectedInput as exc:
        lines = source.text.split("\n")
        # At the end of the file lark gives -1.
        line = exc.line if 0 < exc.line <= len(lines) else len(lines)
        # Nothing is there where the file ends within a block.
        shown = lines[line - 1].strip()[:80] or "it ends too early; is a } missing?"
        raise HclError(
            source.origin, source.first_line + line - 1, f"this is not HCL: {shown}"
        ) from exc
    return tree


def _body(node: Node, source: Source, code: str) -> Body:
    attributes: dict[str, Attribute] = {}
    blocks: list[Block] = []
    for number, child in enumerate(subtrees(node)):
        if number > 0 and code[: child.meta.start_pos].rpartition("\n")[2].strip():
            # The grammar accepts `a = 1 b = 2`; HCL does not.
            raise source.error(child, "an argument or block must begin on a new line")
        if child.data == "attribute":
            name_node, expression = subtrees(child)
            name = source.text_of(name_node)
            if name in attributes:
                raise source.error(child, f"{name} is given twice")
            attributes[name] = Attribute(name, expression, source)
        else:
            blocks.append(_block(child, source, code))
    return Body(attributes, tuple(blocks))


def _block(node: Node, source: Source, code: str) -> Block:
    type_node, *label_nodes, body = subtrees(node)
    labels = tuple(_label(word, source) for word in label_nodes)
    return Block(source.text_of(type_node), labels, _body(body, source, code), node, source)


def _label(node: Node, source: Source) -> str:
    text = source.text_of(node)
    if not text.startswith('"'):
        return text
    try:
        return unescape(text[1:-1])
    except ValueError as exc:
        raise source.error(node, str(exc)) from exc


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
            raise TemplateSyntaxError("after `<<` comes the heredoc's marker, a name", start)
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
    """Return the offset after the end marker of the heredoc that `opening` begins.

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
    """Return the offset of the next line of a heredoc; those inside a `${…}` do not count."""
    while (match := _INTERPOLATION.search(text, position)) is not None:
        if match[0] == "\n":
            return match.end()
        position = match.end()
        if match[0] in ("${", "%{"):
            position = expression_end(text, position) + 1
    return len(text)
