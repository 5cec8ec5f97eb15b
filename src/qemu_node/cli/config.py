"""`qemu-node config`: node.toml, checked and as it takes effect.

Owns the two commands, and where each setting comes from. Does not own the settings
(`config.node`) nor whether the host suits them (`doctor`).
"""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click
import msgspec

from qemu_node.cli.errors import EXIT_ERROR, show_error
from qemu_node.cli.main import App, pass_app
from qemu_node.cli.terminal import Cell, Column, print_json, print_table
from qemu_node.images.http.url import redact

if TYPE_CHECKING:
    from qemu_node.config.node import NodeConfig

_COLUMNS = (Column("Setting"), Column("Source"), Column("Value"))
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting as it takes effect."""

    name: str
    """`section.key`."""
    value: object
    source: str
    """`file` or `default`."""


@click.group()
def config() -> None:
    """Check and show the node's settings."""


@config.command(
    help="""Check node.toml; say what is wrong, with its line.

    Exits with status 1 if something is wrong. A missing default file is fine: the defaults apply.
    Whether the host suits the settings is for `qemu-node doctor`.""",
    epilog="""\b
Examples:
  qemu-node config check
  qemu-node --config new.toml config check && cp new.toml /etc/qemu-node/node.toml
""",
)
@_json
@pass_app
@click.pass_context
def check(ctx: click.Context, app: App, as_json: bool) -> None:
    """Check node.toml."""
    from qemu_node.config import node as node_config
    from qemu_node.config.lines import with_line
    from qemu_node.errors import ConfigError

    problem: ConfigError | None = None
    found = None
    try:
        found = node_config.load_file(app.config_path)
        check_all(found.config)
    except node_config.SettingError as exc:
        problem = with_line(exc)
    except ConfigError as exc:
        problem = exc
        if found is not None and found.text is not None:
            error = node_config.SettingError(str(found.path), exc, found.text)
            problem = with_line(error, check_all)
    path = app.config_path or node_config.default_path()
    if as_json:
        print_json(
            {
                "ok": problem is None,
                "file": str(path),
                "problem": None if problem is None else str(problem),
                "hint": None if problem is None else problem.hint,
            }
        )
    elif problem is not None:
        show_error(problem, app.arguments)
    else:
        is_missing = found is not None and found.text is None
        click.echo(f"{path}: {'missing; the defaults apply' if is_missing else 'ok'}")
    ctx.exit(0 if problem is None else EXIT_ERROR)


@config.command(
    help="""Show all settings as they take effect.

    Each with where it comes from: the file or the default.""",
    epilog="""\b
Examples:
  qemu-node config show
  qemu-node config show --json | jq -r '.settings[] | select(.source == "file") | .name'
""",
)
@_json
@pass_app
def show(app: App, as_json: bool) -> None:
    """Show the settings."""
    found = app.load_file()
    settings = effective(found.config, found.text or "")
    if as_json:
        file = None if found.text is None else str(found.path)
        print_json({"file": file, "settings": [asdict(setting) for setting in settings]})
        return
    if found.text is None:
        click.echo(f"there is no {found.path}: the defaults apply", err=True)
    else:
        click.echo(f"file: {found.path}", err=True)
    print_table(_COLUMNS, rows(settings))


def check_all(config: "NodeConfig") -> None:
    """Check the settings that only the code which uses them understands.

    Raises:
        ConfigError: one of them is wrong; the message names it.
    """
    from qemu_node.images.cache import check_settings
    from qemu_node.images.prefetch import prefetched_keys
    from qemu_node.images.source.credentials import CredentialStore
    from qemu_node.qemu.args import check_args

    check_settings(config.images)
    prefetched_keys(config.images.prefetch, CredentialStore(config.images.credentials))
    check_args((), config.qemu.allow_args)


def effective(config: "NodeConfig", text: str) -> list[Setting]:
    """Return every setting of `config`, which was read from `text`: pure."""
    written = tomllib.loads(text)
    return [
        Setting(
            name=f"{section}.{name}",
            value=_without_secrets(name, msgspec.to_builtins(getattr(config, section))[name]),
            source="file" if name in written.get(section, {}) else "default",
        )
        for section in config.__struct_fields__
        for name in getattr(config, section).__struct_fields__
    ]


def _without_secrets(name: str, value: Any) -> Any:
    """Return a setting's value as it may be shown: a URL may hold a password or a signature."""
    return [redact(source) for source in value] if name == "prefetch" else value


def rows(settings: Sequence[Setting]) -> list[list[Cell]]:
    """Return the table's rows, each value as JSON: pure."""
    return [
        [
            Cell(setting.name),
            Cell(setting.source, "green" if setting.source == "file" else "dim"),
            Cell(json.dumps(setting.value, ensure_ascii=False)),
        ]
        for setting in settings
    ]
