"""`${…}` that Nomad's client fills in on the node: in a task's config, env and paths. Pure.

Owns the lookup and its errors. Does not own the values (`taskenv`). Sources: Nomad's
helper/pluginutils/hclutils (config: HCL templates over env, attr.*, node.*, meta.*) and helper/args
(env).
"""

import re
from collections.abc import Mapping

from qemu_node.errors import JobError
from qemu_node.run.jobfile.template import Literal, TemplateSyntaxError, split_template

_TRAVERSAL = re.compile(r"[A-Za-z_][\w-]*(?:\.[\w-]+)*")
_INDEXED = re.compile(r'(?P<root>env|attr|meta)\s*\[\s*"(?P<key>[^"\\]*)"\s*\]')
_SIMPLE = re.compile(r"\$\{([a-zA-Z0-9_.-]+)\}")


class UnknownVariableError(JobError):
    """A `${…}` names nothing that this node knows."""


def interpolate(text: str, values: Mapping[str, str], where: str) -> str:
    """Return `text` with every `${…}` replaced; `where` names the option in errors.

    `values` holds environment variables and dotted names such as `attr.kernel.name`; `env["X"]` is
    the variable X.

    Raises:
        UnknownVariableError: a name is not in `values`.
        JobError: `text` is torn, or an expression is more than a name.
    """
    try:
        parts = split_template(text)
    except TemplateSyntaxError as exc:
        raise JobError(f"{where}: {exc} in {_shorten(text)!r}") from exc
    return "".join(
        part.text if isinstance(part, Literal) else _lookup(part.source.strip(), values, where)
        for part in parts
    )


def interpolate_value(value: object, values: Mapping[str, str], where: str) -> object:
    """Return `value` with every string in it, however deep, interpolated; keys stay as they are."""
    match value:
        case str():
            return interpolate(value, values, where)
        case Mapping():
            return {
                key: interpolate_value(item, values, f"{where}.{key}")
                for key, item in value.items()
            }
        case list() | tuple():
            return [
                interpolate_value(item, values, f"{where}[{n}]") for n, item in enumerate(value)
            ]
        case _:
            return value


def interpolate_simple(text: str, values: Mapping[str, str], where: str) -> str:
    """Return `text` with `${NAME}` replaced as Nomad does in env values and paths.

    There is no escape and no expression: everything else, `$${` too, is plain text.

    Raises:
        UnknownVariableError: a name is not in `values`. Nomad would leave the text as it is.
    """

    def replace(match: re.Match[str]) -> str:
        return _lookup(match[1], values, where)

    return _SIMPLE.sub(replace, text)


def _lookup(name: str, values: Mapping[str, str], where: str) -> str:
    indexed = _INDEXED.fullmatch(name)
    if indexed is not None:
        root, key = indexed["root"], indexed["key"]
        name_in_values = key if root == "env" else f"{root}.{key}"
    elif _TRAVERSAL.fullmatch(name):
        name_in_values = name.removeprefix("env.").removeprefix("node.attr.")
        if name.startswith("node.attr."):
            name_in_values = f"attr.{name_in_values}"
    else:
        name_in_values = name if _SIMPLE.fullmatch(f"${{{name}}}") else ""
        if not name_in_values:
            raise JobError(
                f"{where}: cannot evaluate ${{{_shorten(name)}}}",
                hint="only names such as ${NOMAD_ALLOC_INDEX} are known once a job is placed",
            )
    if name_in_values not in values:
        raise UnknownVariableError(f"{where}: there is no variable named ${{{_shorten(name)}}}")
    return values[name_in_values]


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
