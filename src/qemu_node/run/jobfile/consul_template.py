"""The part of consul-template's language that VM jobs use: pure.

Owns `{{ … }}` with `env`, `envOrDefault`, string literals and a few string functions in pipelines,
comments, trim marks and custom delimiters. Everything else is refused with its place in the
template. `${…}` is plain text here, as under Nomad.

Source: Go's text/template (lexing, trim marks), consul-template's docs/templating-language.md.
"""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qemu_node.errors import JobError

_SPACE = " \t\r\n"  # what Go's trim marks remove and what separates words
_WORD = re.compile(r"[^\s|()\"`]+")
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_RAW = re.compile(r"`[^`]*`")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'"}
_SUPPORTED = "env, envOrDefault, toLower, toUpper, trimSpace, base64Encode"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    """`text`: a string literal's value; `word`; `|`."""
    value: str
    offset: int


def render(
    text: str,
    env: Mapping[str, str],
    where: str,
    *,
    left_delimiter: str = "{{",
    right_delimiter: str = "}}",
) -> str:
    """Return `text` with its actions replaced; `where` names the template in errors.

    An environment variable that is not set renders as nothing, as under Nomad.

    Raises:
        JobError: an action has no end, or uses what is not supported.
    """
    return _Renderer(text, env, where, left_delimiter, right_delimiter).render()


class _Renderer:
    """One pass over one template."""

    def __init__(
        self, text: str, env: Mapping[str, str], where: str, left: str, right: str
    ) -> None:
        self._text = text
        self._env = env
        self._where = where
        self._left = left
        self._right = right

    def render(self) -> str:
        output: list[str] = []
        position = 0
        trims_next = False
        while True:
            start = self._text.find(self._left, position)
            literal = self._text[position:] if start < 0 else self._text[position:start]
            if trims_next:
                literal = literal.lstrip(_SPACE)
            if start < 0:
                output.append(literal)
                return "".join(output)
            inside = start + len(self._left)
            if self._has_trim_mark(inside):
                literal = literal.rstrip(_SPACE)
                inside += 2
            output.append(literal)
            value, position, trims_next = self._action(inside, start)
            output.append(value)

    def _has_trim_mark(self, position: int) -> bool:
        mark = self._text[position : position + 2]
        return len(mark) == 2 and mark[0] == "-" and mark[1] in _SPACE

    def _action(self, position: int, start: int) -> tuple[str, int, bool]:
        """Return an action's value, the offset after it, and whether it trims what follows."""
        if self._text.startswith("/*", position):
            end = self._text.find("*/", position + 2)
            if end < 0:
                raise self._error(start, "a comment without its */")
            position, trims = self._closing(end + 2)
            if position < 0:
                raise self._error(start, "a comment must be alone in its action")
            return "", position, trims
        tokens: list[_Token] = []
        while True:
            after, trims = self._closing(position)
            if after >= 0:
                return self._pipeline(tokens, start), after, trims
            if position >= len(self._text):
                raise self._error(start, f"{self._left} without its {self._right}")
            if self._text[position] in _SPACE:
                position += 1
                continue
            token, position = self._token(position)
            tokens.append(token)

    def _closing(self, position: int) -> tuple[int, bool]:
        """Return the offset after a right delimiter (-1: none begins here), and its trim mark."""
        if self._text.startswith(self._right, position):
            return position + len(self._right), False
        marked = self._text[position : position + 1]
        if marked and marked in _SPACE and self._text.startswith("-" + self._right, position + 1):
            return position + 2 + len(self._right), True
        return -1, False

    def _token(self, position: int) -> tuple[_Token, int]:
        char = self._text[position]
        if char == "|":
            return _Token("|", char, position), position + 1
        if char in '"`':
            match = (_QUOTED if char == '"' else _RAW).match(self._text, position)
            if match is None:
                raise self._error(position, "a string without its closing quote")
            body = match[0][1:-1]
            return _Token("text", self._unquote(body, position) if char == '"' else body,
                          position), match.end()  # fmt: skip
        match = _WORD.match(self._text, position)
        if match is None:
            raise self._error(position, f"{char!r} is not supported")
        # A word ends before the right delimiter even where no space stands between them.
        word = match[0].partition(self._right)[0]
        if not word:
            raise self._error(position, f"{match[0]!r} is not supported")
        return _Token("word", word, position), position + len(word)

    def _unquote(self, body: str, position: int) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[1] not in _ESCAPES:
                raise self._error(position, f"the escape \\{match[1]} is not supported")
            return _ESCAPES[match[1]]

        return re.sub(r"\\(.)", replace, body, flags=re.DOTALL)

    def _pipeline(self, tokens: Sequence[_Token], start: int) -> str:
        commands: list[list[_Token]] = [[]]
        for token in tokens:
            if token.kind == "|":
                commands.append([])
            else:
                commands[-1].append(token)
        value: str | None = None
        for command in commands:
            if not command:
                raise self._error(start, "an empty action or pipeline step")
            value = self._command(command, value)
        return value or ""

    def _command(self, command: Sequence[_Token], piped: str | None) -> str:
        head, *rest = command
        if head.kind == "text":
            if rest or piped is not None:
                raise self._error(head.offset, "a string cannot be called")
            return head.value
        function = _FUNCTIONS.get(head.value)
        if function is None:
            raise self._error(head.offset, f"{head.value!r} is not supported")
        for token in rest:
            if token.kind != "text":
                raise self._error(token.offset, f"{token.value!r} is not supported as an argument")
        arguments = [token.value for token in rest] + ([] if piped is None else [piped])
        arity, call = function
        if len(arguments) != arity:
            raise self._error(head.offset, f"{head.value} takes {arity} argument(s)")
        return call(self._env, *arguments)

    def _error(self, offset: int, problem: str) -> JobError:
        line = self._text.count("\n", 0, offset) + 1
        column = offset - (self._text.rfind("\n", 0, offset) + 1) + 1
        return JobError(
            f"{self._where}, line {line}, column {column}: {problem}",
            hint=f"`qemu-node run` knows {_SUPPORTED}; other templates need Nomad",
        )


# name: (arguments, call). A piped value is the last argument, as in Go.
_FUNCTIONS: dict[str, tuple[int, Callable[..., str]]] = {
    "env": (1, lambda env, name: env.get(name, "")),
    "envOrDefault": (2, lambda env, name, default: env.get(name, default)),
    "toLower": (1, lambda env, text: text.lower()),
    "toUpper": (1, lambda env, text: text.upper()),
    "trimSpace": (1, lambda env, text: text.strip()),
    "base64Encode": (1, lambda env, text: base64.b64encode(text.encode()).decode()),
}
