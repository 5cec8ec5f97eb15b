"""HCL2 expressions of a job file → values.

Owns evaluation: variables, locals, operators, templates, heredocs and the functions below. What it
cannot evaluate it refuses with file and line. Names that HCL does not know, `NOMAD_ALLOC_INDEX` or
`attr.kernel.name`, become the text `${…}` again, for the node to fill in (Nomad: jobspec2,
UndefinedVariable). Does not own where variables get their values (`variables`).
"""

import base64
import posixpath
import re
from collections.abc import Callable, Mapping
from operator import add, ge, gt, le, lt, mul, sub, truediv
from pathlib import Path
from typing import TypeVar

from qemu_node.nomad.agent.cty import (
    MismatchError,
    Value,
    parse_number,
    to_bool,
    to_number,
    to_string,
    whole,
)
from qemu_node.run.jobfile.syntax import HclError, Node, Source, parse_expression, subtrees, tokens
from qemu_node.run.jobfile.template import (
    Literal,
    Part,
    TemplateSyntaxError,
    heredoc_text,
    split_template,
    unescape,
    without_indentation,
)

T = TypeVar("T")

_MAX_DEPTH = 100
_UNSUPPORTED = {
    "for_tuple_expr": "`for` expressions",
    "for_object_expr": "`for` expressions",
    "attr_splat_expr_term": "splat expressions (.*)",
    "full_splat_expr_term": "splat expressions ([*])",
}
_HINT = "install the `nomad` program, which evaluates all of HCL, or write the value out"


class Evaluator:
    """Evaluates expressions in one scope.

    `variables` are the values of `var.…`; `local` computes those of `local.…` on demand and raises
    KeyError for an unknown one. `base_dir` is the job file's directory, which `file()` starts from.
    """

    def __init__(
        self,
        variables: Mapping[str, Value],
        local: Callable[[str], Value],
        base_dir: Path,
    ) -> None:
        self._variables = variables
        self._local = local
        self._base_dir = base_dir
        self._depth = 0

    def evaluate(self, node: Node, source: Source) -> Value:
        """Return the value of the expression `node`, which stands in `source`.

        Raises:
            HclError: the expression is wrong or not supported; file and line are named.
        """
        self._depth += 1
        try:
            if self._depth > _MAX_DEPTH:
                raise source.error(node, "the expression is nested too deeply")
            if str(node.data) in _UNSUPPORTED:
                raise source.error(
                    node, f"{_UNSUPPORTED[str(node.data)]} cannot be evaluated here", hint=_HINT
                )
            handler: Callable[[Node, Source], Value] = getattr(self, f"_{node.data}")
            return handler(node, source)
        finally:
            self._depth -= 1

    def _expr_term(self, node: Node, source: Source) -> Value:
        return self.evaluate(subtrees(node)[0], source)

    def _literal_value(self, node: Node, source: Source) -> Value:
        return {"true": True, "false": False, "null": None}[source.text_of(node)]

    def _int_lit(self, node: Node, source: Source) -> Value:
        return _converted(parse_number, source.text_of(node), node, source)

    _float_lit = _int_lit

    def _string(self, node: Node, source: Source) -> Value:
        raw = source.text_of(node)
        line = source.line_of(node)
        if raw.startswith('"'):
            text = raw[1:-1]
            return self._join(self._parts(text, source, line), text, source, line, is_quoted=True)
        line += 1
        text = heredoc_text(raw)
        parts = self._parts(text, source, line)
        if raw.startswith("<<-"):
            parts = without_indentation(parts)
        return self._join(parts, text, source, line, is_quoted=False)

    def _tuple(self, node: Node, source: Source) -> Value:
        return [self.evaluate(item, source) for item in subtrees(node)]

    def _object(self, node: Node, source: Source) -> Value:
        result: dict[str, Value] = {}
        for element in subtrees(node):
            key_node, value_node = subtrees(element)
            result[self._object_key(key_node, source)] = self.evaluate(value_node, source)
        return result

    def _object_key(self, node: Node, source: Source) -> str:
        text = source.text_of(node).strip()
        if re.fullmatch(r"[A-Za-z_][\w-]*", text):
            return text
        return _converted(to_string, self.evaluate(subtrees(node)[0], source), node, source)

    def _identifier(self, node: Node, source: Source) -> Value:
        return f"${{{source.text_of(node)}}}"

    def _get_attr_expr_term(self, node: Node, source: Source) -> Value:
        base, step = subtrees(node)
        root = _root_name(base, source)
        if root is not None and root not in ("var", "local"):
            # Nothing that a job file defines: left for the node, exactly as written.
            return f"${{{source.text_of(node)}}}"
        key = self._step_key(step, source)
        inner = subtrees(base)
        is_name = base.data == "identifier" or [each.data for each in inner] == ["identifier"]
        if root is not None and is_name:
            return self._named(root, key, node, source)
        value = self.evaluate(base, source)
        try:
            return value[str(key)] if isinstance(value, dict) else value[_position(value, key)]
        except (KeyError, IndexError, TypeError, ValueError):
            raise source.error(node, f"{source.text_of(node)}: there is no {key!r} in it") from None

    _index_expr_term = _get_attr_expr_term

    def _step_key(self, step: Node, source: Source) -> Value:
        if step.data == "get_attr":
            return source.text_of(step).lstrip(".").strip()
        if step.data == "short_index":
            return int(source.text_of(step).lstrip("."))
        return self.evaluate(subtrees(step)[0], source)

    def _named(self, root: str, key: Value, node: Node, source: Source) -> Value:
        try:
            return self._variables[key] if root == "var" else self._local(key)
        except KeyError:
            noun = "variable" if root == "var" else "local value"
            raise source.error(node, f"there is no {noun} {key!r}") from None

    def _unary_op(self, node: Node, source: Source) -> Value:
        operator = str(next(tokens(node)))
        value = self.evaluate(subtrees(node)[0], source)
        if operator == "!":
            return not _converted(to_bool, value, node, source)
        return whole(-_converted(to_number, value, node, source))

    def _conditional(self, node: Node, source: Source) -> Value:
        condition, yes, no = subtrees(node)
        is_true = _converted(to_bool, self.evaluate(condition, source), node, source)
        return self.evaluate(yes if is_true else no, source)

    def _binary_op(self, node: Node, source: Source) -> Value:
        left_node, term = subtrees(node)
        operator_node, right_node = subtrees(term)
        # A newline before the operator is merged into its token.
        operator = str(next(tokens(operator_node))).split()[-1]
        left = self.evaluate(left_node, source)
        right = self.evaluate(right_node, source)
        if operator in ("==", "!="):
            # HCL's values of different types are never equal; Python's True equals 1.
            is_same = isinstance(left, bool) == isinstance(right, bool) and left == right
            return is_same == (operator == "==")
        if operator in ("&&", "||"):
            first = _converted(to_bool, left, node, source)
            second = _converted(to_bool, right, node, source)
            return (first and second) if operator == "&&" else (first or second)
        a = _converted(to_number, left, node, source)
        b = _converted(to_number, right, node, source)
        if operator in _COMPARE:
            return _COMPARE[operator](a, b)
        if operator in ("/", "%") and b == 0:
            raise source.error(node, "division by zero")
        try:
            return whole(_ARITHMETIC[operator](a, b))
        except OverflowError:
            raise source.error(node, "the result is too large") from None

    def _function_call(self, node: Node, source: Source) -> Value:
        name_node, *rest = subtrees(node)
        name = source.text_of(name_node)
        arguments = subtrees(rest[0]) if rest else []
        if name not in _FUNCTIONS or any(token == "..." for n in rest for token in tokens(n)):
            supported = ", ".join(sorted(_FUNCTIONS))
            raise source.error(
                node,
                f"the function {name}() cannot be evaluated here",
                hint=f"supported: {supported}; {_HINT}",
            )
        values = [self.evaluate(argument, source) for argument in arguments]
        try:
            return _FUNCTIONS[name](self._base_dir, *values)
        except OSError as exc:
            raise source.error(node, f"{name}({values[0]!r}): {exc.strerror}") from exc
        except (TypeError, ValueError, AttributeError, KeyError) as exc:
            raise source.error(node, f"wrong arguments for {name}(): {exc}") from exc

    def _parts(self, text: str, source: Source, line: int) -> list[Part]:
        try:
            return split_template(text)
        except TemplateSyntaxError as exc:
            line += text.count("\n", 0, exc.offset)
            raise HclError(source.origin, line, str(exc), hint=_HINT) from exc

    def _join(
        self, parts: list[Part], text: str, source: Source, line: int, *, is_quoted: bool
    ) -> Value:
        """Return the value of a string template; a lone `${x}` keeps the type of x."""
        values: list[Value] = []
        for part in parts:
            if isinstance(part, Literal):
                try:
                    values.append(unescape(part.text) if is_quoted else part.text)
                except ValueError as exc:
                    raise HclError(source.origin, line, str(exc)) from exc
                continue
            inner = Source(source.origin, part.source, line + text.count("\n", 0, part.offset))
            node, wrapped = parse_expression(inner)
            value = self.evaluate(node, wrapped)
            if value == f"${{{part.source.strip()}}}":
                value = f"${{{part.source}}}"  # left for the node, exactly as written
            if len(parts) == 1:
                return value
            values.append(_converted(to_string, value, node, wrapped))
        return "".join(values)


_COMPARE: dict[str, Callable[[float, float], bool]] = {"<": lt, ">": gt, "<=": le, ">=": ge}
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": add, "-": sub, "*": mul, "/": truediv,
    "%": lambda a, b: abs(a) % abs(b) * (-1 if a < 0 else 1),  # the sign of the dividend, as in Go
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Value]] = {
    "abspath": lambda base, path: str(Path(path).absolute()),
    "base64encode": lambda base, text: base64.b64encode(text.encode()).decode(),
    "basename": lambda base, path: posixpath.basename(path),
    "concat": lambda base, *lists: [item for part in lists for item in part],
    "dirname": lambda base, path: posixpath.dirname(path) or ".",
    "file": lambda base, path: (base / path).read_bytes().decode(),
    "filebase64": lambda base, path: base64.b64encode((base / path).read_bytes()).decode(),
    "join": lambda base, separator, *lists: separator.join(i for part in lists for i in part),
    "length": lambda base, value: len(value),
    "lower": lambda base, text: text.lower(),
    "split": lambda base, separator, text: text.split(separator),
    "trimspace": lambda base, text: text.strip(),
    "upper": lambda base, text: text.upper(),
}


def _converted(convert: Callable[[Value], T], value: Value, node: Node, source: Source) -> T:
    try:
        return convert(value)
    except MismatchError as exc:
        raise source.error(node, f"{source.text_of(node)}: {exc}") from exc


def _position(value: Value, key: Value) -> int:
    position = int(key)
    if not isinstance(value, list) or position < 0:
        raise IndexError(position)
    return position


def _root_name(node: Node, source: Source) -> str | None:
    """Return the identifier that a traversal begins with; None where it begins with a value."""
    while node.data in ("expr_term", "get_attr_expr_term", "index_expr_term"):
        if any(token.type == "LPAR" for token in tokens(node)):
            return None
        node = subtrees(node)[0]
    return source.text_of(node) if node.data == "identifier" else None
