"""`qemu-node config`: node.toml and Nomad's configuration, checked; settings as they take effect.

Owns the commands, and where each setting comes from. Does not own the settings
(`config.node`), what is wrong with Nomad's (`nodeos.agent.check`), nor whether the host suits them
(`doctor`).
"""

import asyncio
import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from qemu_node.cli.errortext import EXIT_ERROR, show_error, show_finding
from qemu_node.cli.main import App, pass_app
from qemu_node.cli.terminal import Cell, Column, print_json, print_table
from qemu_node.errors import NodeError
from qemu_node.images.http.url import redact

if TYPE_CHECKING:
    from qemu_node.config.node import ConfigFile, NodeConfig
    from qemu_node.errors import ConfigError
    from qemu_node.nodeos.agent.check import Finding

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
    short_help="Check node.toml and Nomad's configuration.",
    help="""Check node.toml, and Nomad's configuration in DIRECTORY; say what is wrong.

    DIRECTORY is the agent's -config, with node.toml in it. Nomad's own validator runs, and
    certificates, roles and server names are checked. The default is /data/config on the node's own
    operating system; elsewhere only node.toml is checked.

    Exits with status 1 if something is wrong. A missing default file is fine: the defaults apply.
    `qemu-node doctor` checks whether the host suits the settings.""",
    epilog="""\b
Examples:
  qemu-node config check
  qemu-node --config new.toml config check && cp new.toml /etc/qemu-node/node.toml
  qemu-node config check /etc/nomad.d
""",
)
@click.argument("directory", required=False, metavar="[DIRECTORY]",
                type=click.Path(file_okay=False, exists=True, path_type=Path))  # fmt: skip
@_json
@pass_app
@click.pass_context
def check(ctx: click.Context, app: App, directory: Path | None, as_json: bool) -> None:
    """Check the configuration."""
    from qemu_node.config import node as node_config

    beside = None if directory is None else directory / "node.toml"
    path = app.config_path or (beside if beside is not None and beside.exists() else None)
    found, problem = _check_node_toml(path)
    shown = path or node_config.default_path()
    directory = directory or _node_directory()
    findings = [] if directory is None else _check_nomad(directory)
    is_wrong = problem is not None or any(finding.is_error for finding in findings)
    if as_json:
        said: dict[str, object] = {
            "ok": not is_wrong,
            "file": str(shown),
            "problem": None if problem is None else str(problem),
            "hint": None if problem is None else problem.hint,
        }
        if directory is not None:
            said["directory"] = str(directory)
            said["nomad"] = [asdict(finding) for finding in findings]
        print_json(said)
        ctx.exit(EXIT_ERROR if is_wrong else 0)
    if problem is not None:
        show_error(problem, app.arguments)
    else:
        is_missing = found is not None and found.text is None
        click.echo(f"{shown}: {'missing; the defaults apply' if is_missing else 'ok'}")
    for finding in findings:
        show_finding(finding.text, finding.hint, is_error=finding.is_error)
    if directory is not None and not any(finding.is_error for finding in findings):
        click.echo(f"{directory}: Nomad's configuration is ok")
    ctx.exit(EXIT_ERROR if is_wrong else 0)


def _check_node_toml(path: Path | None) -> "tuple[ConfigFile | None, ConfigError | None]":
    """Return node.toml and what is wrong with it."""
    from qemu_node.config import node as node_config
    from qemu_node.config.wrongline import with_line
    from qemu_node.errors import ConfigError

    found = None
    try:
        found = node_config.load_file(path)
        check_all(found.config)
    except node_config.SettingError as exc:
        return found, with_line(exc)
    except ConfigError as exc:
        if found is not None and found.text is not None:
            error = node_config.SettingError(str(found.path), exc, found.text)
            return found, with_line(error, check_all)
        return found, exc
    return found, None


def _node_directory() -> Path | None:
    """Return Nomad's configuration of a node with its own operating system; None elsewhere."""
    from qemu_node.nodeos.paths import NodePaths
    from qemu_node.nodeos.release import read_release

    paths = NodePaths()
    return paths.config if read_release(paths).is_node_os and paths.config.is_dir() else None


def check_data(data: str) -> None:
    """Check that VMs and images are on a disk, on the node's own operating system.

    Raises:
        ConfigError: they would be in RAM.
    """
    from qemu_node.errors import ConfigError
    from qemu_node.nodeos.boot import read_boot
    from qemu_node.nodeos.mounts import is_in_memory
    from qemu_node.nodeos.paths import NodePaths

    paths = NodePaths()
    if not read_boot(paths).is_installed:
        return
    if is_in_memory(Path(data), paths.mountinfo.read_text(errors="replace")):
        raise ConfigError(
            f"paths.data is {data}, which is in RAM here: VMs and images would be gone after a "
            "reboot",
            hint='data = "/data", or leave it out',
        )


@config.command(
    hidden=True,
    help="""Make missing certificates, then check the configuration: before Nomad starts.

    For Nomad's unit on the node's own operating system. It is `os certificates` and `config check
    DIRECTORY` in one process, because the start of a second one is a good part of a boot.""",
)
@click.argument("directory", type=click.Path(file_okay=False, exists=True, path_type=Path))
@click.pass_context
def prepare(ctx: click.Context, directory: Path) -> None:
    """Prepare Nomad's start; without certificates the check says what is missing."""
    from qemu_node.nodeos.agent.certificates import make_certificates
    from qemu_node.nodeos.agent.config import read_agent_config

    try:
        config = read_agent_config(directory)
        making = asyncio.run(make_certificates(config, "nomad", os.uname().nodename))
    except NodeError as exc:
        show_error(exc)
    else:
        click.echo(making.say(config))
    ctx.invoke(check, directory=directory, as_json=False)


def _check_nomad(directory: Path) -> "list[Finding]":
    """Return what is wrong with Nomad's configuration."""
    from qemu_node.errors import ConfigError
    from qemu_node.nodeos.agent.check import Finding, judge
    from qemu_node.nodeos.agent.config import config_files, read_agent_config
    from qemu_node.nodeos.agent.facts import read_facts

    try:
        if not config_files(directory):
            return [
                Finding(
                    text=f"{directory} has no configuration of Nomad's, so Nomad does not start",
                    hint=f"cp /usr/share/nomad/* {directory}/ on the node's own system",
                )
            ]
        config = read_agent_config(directory)
    except ConfigError as exc:
        return [Finding(text=str(exc), hint=exc.hint or "`nomad config validate` says more")]
    return judge(config, asyncio.run(read_facts(directory, config, "nomad")))


@config.command(
    help="""Show all settings as they take effect.

    Each line says whether the value comes from the file or is the default.""",
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
    check_data(config.paths.data)


def effective(config: "NodeConfig", text: str) -> list[Setting]:
    """Return every setting of `config`, which was read from `text`: pure."""
    written = tomllib.loads(text)
    return [
        Setting(
            name=f"{section}.{name}",
            # A URL may hold a password or a signature.
            value=[redact(url) for url in value] if name == "prefetch" else value,
            source="file" if name in written.get(section, {}) else "default",
        )
        for section in config.__struct_fields__
        for name, value in msgspec.to_builtins(getattr(config, section)).items()
    ]


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
