"""The agent's configuration files, as far as this node's own software must know them.

Owns reading `*.hcl` and `*.json` of a directory and merging them as Nomad does: in the order of
their names, later ones win. Does not own whether they are right (`nomad config validate`, and
`check`). Nomad reads them with HCL 1, python-hcl2 with HCL 2; the same texts mean the same in
both, but for old notations such as `tls = { … }`, which are taken, too.

Source: Nomad's command/agent/config.go (`LoadConfigDir`, `Merge`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu_node.errors import ConfigError

DEFAULT_HTTP_PORT = 4646
DEFAULT_GC_MAX_ALLOCS = 50  # command/agent/config.go, DefaultConfig
_LOOPBACK = "127.0.0.1"
_ANY = ("", "0.0.0.0", "::")


Settings = dict[str, Any]
"""Blocks and attributes by name; blocks with a label by the label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """The `tls` block."""

    is_http: bool = False
    is_rpc: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verifies_server_name: bool = False
    verifies_https_client: bool = False

    @property
    def is_on(self) -> bool:
        """Whether the agent uses TLS at all."""
        return self.is_http or self.is_rpc

    @property
    def files(self) -> dict[str, str]:
        """The files that the block names, by the name of the setting."""
        named = {"ca_file": self.ca_file, "cert_file": self.cert_file, "key_file": self.key_file}
        return {setting: path for setting, path in named.items() if path}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """What the files say."""

    is_server: bool = False
    is_client: bool = False
    servers: tuple[str, ...] = ()
    """The servers that this one is told to join, as a client or as a server."""
    bootstrap_expect: int = 0
    region: str = "global"
    name: str = ""
    """The node's name in Nomad; empty: its host name."""
    has_acl: bool = False
    has_gossip_key: bool = False
    data_dir: str = ""
    plugin_dir: str = ""
    plugins: tuple[str, ...] = ()
    gc_max_allocs: int = DEFAULT_GC_MAX_ALLOCS
    """How many ended allocations a client keeps at most."""
    http_host: str = _LOOPBACK
    """Where this node reaches the agent's API."""
    http_port: int = DEFAULT_HTTP_PORT
    tls: TlsSettings = TlsSettings()

    @property
    def plugins_dir(self) -> str:
        """Where the agent looks for plugins; empty if no file says it."""
        return self.plugin_dir or (f"{self.data_dir}/plugins" if self.data_dir else "")


def config_files(directory: Path) -> list[Path]:
    """Return the files that Nomad reads in `directory`, in its order.

    Raises:
        ConfigError: the directory cannot be read.
    """
    try:
        entries = sorted(directory.iterdir())
    except OSError as exc:
        raise ConfigError(
            f"{directory}: {exc.strerror}",
            hint=f"mkdir -p {directory} && cp /usr/share/nomad/* {directory}/",
        ) from exc
    # Nomad passes over what editors leave: hidden files, `x~` and `#x#` (isTemporaryFile).
    return [
        path
        for path in entries
        if path.suffix in (".hcl", ".json")
        and path.is_file()
        and not path.name.startswith((".", "#"))
    ]


def is_configured(directory: Path) -> bool:
    """Tell whether `directory` has a configuration, so that Nomad is to run: as its unit does."""
    try:
        return bool(config_files(directory))
    except ConfigError:
        return False


def read_settings(directory: Path) -> Settings:
    """Return the merged settings of all files in `directory`.

    Raises:
        ConfigError: a file cannot be read or understood; the message names it.
    """
    merged: Settings = {}
    for path in config_files(directory):
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path} cannot be read: {exc}") from exc
        merged = merge(merged, parse(text, path))
    return merged


def parse(text: str, path: Path) -> Settings:
    """Return the settings in the text of the file `path`: pure.

    Raises:
        ConfigError: it is no HCL, or no JSON.
    """
    try:
        if path.suffix == ".json":
            raw = json.loads(text)
        else:
            # Takes half a second to import.
            import hcl2

            raw = hcl2.loads(text if text.endswith("\n") else f"{text}\n")
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path} is no JSON: {exc}") from exc
    except Exception as exc:
        # What lark raises has no root of its own below Exception; its words span many lines.
        line = getattr(exc, "line", None)
        where = f"{path}:{line}" if isinstance(line, int) and line > 0 else str(path)
        raise ConfigError(f"{where}: this is no HCL") from exc
    settings = _plain(raw)
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds no settings")
    return settings


def merge(earlier: Settings, later: Settings) -> Settings:
    """Return the settings of two files, of which the later one wins: pure."""
    merged = dict(earlier)
    for name, value in later.items():
        before = merged.get(name)
        is_block = isinstance(before, dict) and isinstance(value, dict)
        merged[name] = merge(before, value) if is_block else value  # type: ignore[arg-type]
    return merged


def agent_config(settings: Settings) -> AgentConfig:
    """Return what merged settings say: pure. What has a wrong type counts as not there."""
    client, server = _block(settings, "client"), _block(settings, "server")
    joined = _words(client.get("servers"))
    for block in (client, server):
        for name in ("retry_join", "start_join"):
            # The latter two are old names in the `server` block itself.
            joined += _words(_block(block, "server_join").get(name)) + _words(block.get(name))
    return AgentConfig(
        is_server=_flag(server, "enabled"),
        is_client=_flag(client, "enabled"),
        servers=joined,
        bootstrap_expect=_number(server.get("bootstrap_expect"), 0),
        region=_text(settings.get("region")) or "global",
        name=_text(settings.get("name")),
        has_acl=_flag(_block(settings, "acl"), "enabled"),
        has_gossip_key=bool(_text(server.get("encrypt"))),
        data_dir=_text(settings.get("data_dir")),
        plugin_dir=_text(settings.get("plugin_dir")),
        plugins=tuple(_block(settings, "plugin")),
        gc_max_allocs=_number(client.get("gc_max_allocs"), DEFAULT_GC_MAX_ALLOCS),
        http_host=_reachable(
            _text(_block(settings, "addresses").get("http")) or _text(settings.get("bind_addr"))
        ),
        http_port=_number(_block(settings, "ports").get("http"), DEFAULT_HTTP_PORT),
        tls=_tls(_block(settings, "tls")),
    )


def read_agent_config(directory: Path) -> AgentConfig:
    """Return what the files in `directory` say; the defaults if there are none.

    Raises:
        ConfigError: they cannot be read or understood.
    """
    return agent_config(read_settings(directory))


def _tls(block: Settings) -> TlsSettings:
    return TlsSettings(
        is_http=_flag(block, "http"),
        is_rpc=_flag(block, "rpc"),
        ca_file=_text(block.get("ca_file")),
        cert_file=_text(block.get("cert_file")),
        key_file=_text(block.get("key_file")),
        verifies_server_name=_flag(block, "verify_server_hostname"),
        verifies_https_client=_flag(block, "verify_https_client"),
    )


def _reachable(address: str) -> str:
    """Return where this node reaches what listens on `address`.

    A template of go-sockaddr is Nomad's to evaluate; whatever it gives, loopback is the best guess.
    """
    first = address.split()[0] if address.split() else ""
    return _LOOPBACK if first in _ANY or "{{" in address else first


def _plain(value: Any) -> Any:
    """Return python-hcl2's tree as plain data: blocks as dicts, strings without their quotes."""
    if isinstance(value, Mapping):
        return {
            _unquoted(str(name)): _plain(inner)
            for name, inner in value.items()
            if name != "__is_block__"
        }
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        items = [_plain(item) for item in value]
        # Blocks of one name: Nomad merges them, those with different labels side by side.
        if items and all(isinstance(item, dict) for item in items):
            merged: Settings = {}
            for item in items:
                merged = merge(merged, item)
            return merged
        return items
    return _unquoted(value) if isinstance(value, str) else value


def _unquoted(text: str) -> str:
    if len(text) < 2 or not (text[0] == text[-1] == '"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text[1:-1]


def _block(settings: Settings, name: str) -> Settings:
    found = settings.get(name)
    return found if isinstance(found, dict) else {}


def _flag(block: Settings, name: str) -> bool:
    return block.get(name) in (True, "true", 1)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object, default: int) -> int:
    try:
        return int(str(value))
    except ValueError:
        return default


def _words(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()
