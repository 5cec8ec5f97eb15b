"""node.toml: the operator's settings, read into one frozen value.

Owns reading the file and the small sections; `images`, `network`, `nodeos`, `uplink` and `web` are
modules of their own. Each component gets only its own section. A missing file means the defaults.
An unknown key is an error that names it.
"""

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from qemu_node.config.images import ImagesConfig, check_images
from qemu_node.config.network import NetworkConfig, check_network
from qemu_node.config.nodeos import OsConfig, check_os
from qemu_node.config.uplink import UplinkConfig, check_uplink
from qemu_node.config.web import WebConfig, check_web
from qemu_node.errors import AS_ROOT, ConfigError
from qemu_node.text import nearest
from qemu_node.units import Share, parse_share, parse_size

CONFIG_ENV = "QEMU_NODE_CONFIG"
"""Environment variable that names another node.toml than the default one."""

DATA_ENV = "QEMU_NODE_DATA"
"""Environment variable that is root's `paths.data` if node.toml does not say: the node's own
operating system sets it, because `/var` is in RAM there."""

SYSTEM_ENV = "QEMU_NODE_SYSTEM"
"""Environment variable that, if it is `1`, has another user than root use root's default paths: the
daemon's unit sets it."""

_ROOT_CONFIG = Path("/etc/qemu-node/node.toml")
_EARLIER_DATA = Path("/data")
"""Root's data directory, with node.toml in `config`, before it became `/var/lib/qemu-node`."""

# sun_path holds 108 bytes with its NUL (man 7 unix). Below run_dir come "/vm/", a vm_id of at most
# 29 bytes and "/monitor.sock".
_RUN_DIR_MAX_BYTES = 107 - len("/vm/") - 29 - len("/monitor.sock")


class Paths(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The directories of this node."""

    run: str
    """Sockets and vm.json of running VMs; a reboot may remove it."""
    data: str
    """Overlays, varstores, logs and the image cache."""

    @property
    def run_dir(self) -> Path:
        """The directory of sockets and locks."""
        return Path(self.run)

    @property
    def run_advice(self) -> str:
        """What to do if `run_dir` cannot be made."""
        if os.geteuid() != 0 and self.run == default_paths().run:
            return (
                "without a login session of yours, run `export XDG_RUNTIME_DIR=$(mktemp -d)` "
                "first, or set paths.run in node.toml"
            )
        return "make it writable, or set paths.run in node.toml"

    @property
    def data_advice(self) -> str:
        """What to do if `data` cannot be made or written."""
        if os.geteuid() != 0 and self.data == default_paths().data:
            return "make it writable, or `export XDG_DATA_HOME=…` with a directory of yours"
        return "make it writable, or set paths.data in node.toml"

    @property
    def vm_run_dir(self) -> Path:
        """One directory per VM: vm.json and sockets."""
        return Path(self.run) / "vm"

    @property
    def web_run_dir(self) -> Path:
        """Where the console's daemon shares serial ports: `<vm_id>.sock`."""
        return Path(self.run) / "web"

    @property
    def console_certificate(self) -> Path:
        """What the console's daemon shows to browsers, for everybody to read while it runs."""
        return self.web_run_dir / "certificate.pem"

    @property
    def session_web_dir(self) -> Path:
        """The same of `qemu-node run`: as root it makes nothing in the daemon's directory."""
        return Path(self.run) / "web-run"

    @property
    def web_run_dirs(self) -> tuple[Path, ...]:
        """Both, the daemon's first."""
        return self.web_run_dir, self.session_web_dir

    @property
    def vm_data_dir(self) -> Path:
        """One directory per VM: its disk, varstore, config drive, logs."""
        return Path(self.data) / "vm"

    @property
    def proofs(self) -> Path:
        """The file that says which accelerators have run a guest here; kept over reboots."""
        return Path(self.data) / "proofs.json"

    @property
    def images_dir(self) -> Path:
        """The image cache."""
        return Path(self.data) / "images"


class QemuConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[qemu]`: the hypervisor and what jobs may ask of it."""

    binary: str = "qemu-system-x86_64"
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    """`auto`: KVM if a guest has run under it, otherwise TCG."""
    firmware_dirs: tuple[str, ...] = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")
    """Directories of QEMU's firmware descriptors (docs/interop/firmware.json). The first match
    wins."""
    merge: bool = True
    """Whether KSM merges a VM's memory if its job does not say."""
    allow_args: tuple[str, ...] = ()
    """Regular expressions; a job's raw option must match one of them in full."""
    first_uid: int = 200_000
    uid_count: int = 10_000
    """VMs run as users `first_uid` … `first_uid + uid_count - 1`, one each, when we are root."""

    @property
    def firmware_paths(self) -> tuple[Path, ...]:
        """`firmware_dirs` as paths."""
        return tuple(Path(directory) for directory in self.firmware_dirs)


class LogsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[logs]`: limits on what a guest can print to its task's log."""

    max_files: int = 10
    max_file_size: str = "10M"
    rate: str = "1M"
    """Bytes a second that one guest may log in the long run. Faster output waits, up to 32 MiB."""

    @property
    def max_file_bytes(self) -> int:
        """`max_file_size` in bytes."""
        return parse_size(self.max_file_size)

    @property
    def rate_bytes_per_s(self) -> int:
        """`rate` in bytes a second."""
        return parse_size(self.rate)


class DiskConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[disk]`: the space to keep free on the file system of `paths.data`."""

    reserve: str = "5%"
    """A share or a size. If less is free, no VM starts and nothing is downloaded."""

    @property
    def reserved(self) -> Share:
        """`reserve` as a share of the file system."""
        return parse_share(self.reserve)


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole node.toml, as it was read. A `Node` is built from it."""

    paths: Paths = msgspec.field(default_factory=lambda: default_paths())
    images: ImagesConfig = ImagesConfig()
    qemu: QemuConfig = QemuConfig()
    logs: LogsConfig = LogsConfig()
    network: NetworkConfig = NetworkConfig()
    uplink: UplinkConfig = UplinkConfig()
    disk: DiskConfig = DiskConfig()
    os: OsConfig = OsConfig()
    web: WebConfig = WebConfig()


def default_paths() -> Paths:
    """Return root's directories, or a user's own under the XDG ones."""
    if _is_system():
        return Paths(run="/run/qemu-node", data=os.environ.get(DATA_ENV) or "/var/lib/qemu-node")
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    # Not Path.home(), which raises for a user without one. `load` reports that later.
    data = os.environ.get("XDG_DATA_HOME") or f"{os.path.expanduser('~')}/.local/share"  # noqa: PTH111
    return Paths(run=f"{runtime}/qemu-node", data=f"{data}/qemu-node")


def default_path() -> Path:
    """Return where node.toml is looked for: `$QEMU_NODE_CONFIG`, else in /etc, or a user's own.

    The variable may name several files, separated by colons: the first that exists counts.
    """
    named = [Path(name) for name in os.environ.get(CONFIG_ENV, "").split(os.pathsep) if name]
    if named:
        return next((path for path in named if _may_exist(path)), named[-1])
    if _is_system():
        return _ROOT_CONFIG
    return Path(default_paths().data) / "config" / "node.toml"


def _is_system() -> bool:
    return os.geteuid() == 0 or os.environ.get(SYSTEM_ENV) == "1"


def _may_exist(path: Path) -> bool:
    """Tell whether a file is there, or cannot be looked at: then reading it says why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def find_earlier_data(paths: Paths) -> str | None:
    """Return what to do about root's VMs and images in `_EARLIER_DATA`; None if there are none."""
    if os.geteuid() != 0 or Path(paths.data) == _EARLIER_DATA:
        return None
    # Only a driver makes these; a directory that is called the same may be anybody's.
    marks = {_EARLIER_DATA / "vm": ".uid", _EARLIER_DATA / "images": "store.lock"}
    kept = [str(directory) for directory, mark in marks.items() if (directory / mark).exists()]
    if not kept:
        return None
    return (
        f"{' and '.join(kept)}: from the default paths of an earlier version and not used; set "
        f'paths.data = "{_EARLIER_DATA}" in node.toml, or remove them when no VM runs there'
    )


class SettingError(ConfigError):
    """A setting makes no sense; the file is TOML."""

    def __init__(self, origin: str, error: ConfigError, text: str) -> None:
        super().__init__(f"{origin}: {error}", hint=error.hint)
        self.origin = origin
        self.problem = str(error)
        self.text = text
        """The file."""


def parse(text: str, origin: str) -> NodeConfig:
    """Return the settings in `text`, which is TOML; errors name `origin`.

    Raises:
        SettingError: an unknown key or a wrong value; the message names the key.
        ConfigError: it is not TOML.
    """
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        # ValueError: for instance a number with more digits than Python reads.
        raise ConfigError(f"{origin} is not TOML: {exc}") from exc
    return convert(raw, origin, text)


def convert(raw: dict[str, Any], origin: str, text: str) -> NodeConfig:
    """Return the settings in `raw`, which was read from `text`; errors name `origin`.

    Raises:
        SettingError: an unknown key or a wrong value; the message names the key.
    """
    paths = raw.get("paths", {})
    if isinstance(paths, dict):
        defaults = default_paths()
        raw["paths"] = {"run": defaults.run, "data": defaults.data} | paths
    try:
        config = msgspec.convert(raw, NodeConfig)
        _check(config)
    except msgspec.ValidationError as exc:
        raise SettingError(origin, _explain(exc), text) from exc
    except ConfigError as exc:
        raise SettingError(origin, exc, text) from exc
    return config


_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*?)`(?: - at `\$\.?(?P<at>.*)`)?$")


def _explain(exc: msgspec.ValidationError) -> ConfigError:
    """Return msgspec's error in the words of node.toml."""
    unknown = _UNKNOWN.match(str(exc))
    if unknown is None:
        return ConfigError(str(exc).replace("`$.", "`"))
    path = ".".join(filter(None, (unknown["at"], unknown["name"])))
    near = nearest(unknown["name"], _names_at(unknown["at"] or ""))
    hint = f"did you mean {near}?" if near else "docs/node-toml.md lists all settings"
    return ConfigError(f"there is no setting {path}", hint=hint)


def _names_at(path: str) -> tuple[str, ...]:
    """Return the settings that there are in `section`, or in `section.table[...]`."""
    struct: Any = NodeConfig
    for part in filter(None, path.split(".")):
        types = {field.name: field.type for field in msgspec.structs.fields(struct)}
        found = types[part.partition("[")[0]]
        struct = next(iter(get_args(found)), found)
    names: tuple[str, ...] = struct.__struct_fields__
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A node.toml that was read."""

    path: Path
    text: str | None
    """None: there is no such file, and the defaults apply."""
    config: NodeConfig


def load(path: Path | None = None) -> NodeConfig:
    """Return the settings of `load_file`."""
    return load_file(path).config


def load_file(path: Path | None = None) -> ConfigFile:
    """Return the settings in `path`; by default in the default file, which may be missing.

    Raises:
        ConfigError: `path` cannot be read or its content is wrong.
    """
    chosen = path if path is not None else default_path()
    try:
        text = chosen.read_text()
    except FileNotFoundError:
        if path is not None or CONFIG_ENV in os.environ:
            raise ConfigError(
                f"{chosen}: no such file",
                hint="create it, or leave --config and $QEMU_NODE_CONFIG out for the defaults",
            ) from None
        _refuse_earlier_config(chosen)
        config = NodeConfig()
        _check(config)
        return ConfigFile(path=chosen, text=None, config=config)
    except OSError as exc:
        hint = AS_ROOT if isinstance(exc, PermissionError) else None
        raise ConfigError(f"{chosen}: {exc.strerror}", hint=hint) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{chosen} is not UTF-8 text") from exc
    return ConfigFile(path=chosen, text=text, config=parse(text, str(chosen)))


def _refuse_earlier_config(chosen: Path) -> None:
    """Raise if only the earlier default file exists: its rules would silently not apply."""
    earlier = _EARLIER_DATA / "config" / "node.toml"
    if chosen == _ROOT_CONFIG and earlier.exists():
        raise ConfigError(
            f"{earlier} is not read any more, and there is no {chosen}",
            hint=f'move it there; with data = "{_EARLIER_DATA}" in [paths] VMs and images stay',
        )


def _check(config: NodeConfig) -> None:
    """Raise for what the types allow but makes no sense."""
    # No path can hold it, and system calls raise for it. An escaped backslash is not its escape.
    if b"\\u0000" in msgspec.json.encode(config).replace(b"\\\\", b""):
        raise ConfigError("a setting holds a NUL character")
    for name, value in (("run", config.paths.run), ("data", config.paths.data)):
        if not value.startswith("/"):
            raise ConfigError(f"paths.{name} must be an absolute path, not {value!r}")
    if len(os.fsencode(config.paths.run)) > _RUN_DIR_MAX_BYTES:
        raise ConfigError(
            f"paths.run is longer than {_RUN_DIR_MAX_BYTES} bytes: {config.paths.run}",
            hint="the sockets below it would exceed the kernel's limit of 107 bytes",
        )
    if config.qemu.first_uid < 1000 or config.qemu.uid_count < 1:
        raise ConfigError("qemu.first_uid must be at least 1000 and qemu.uid_count at least 1")
    if config.logs.max_files < 1 or config.logs.max_file_bytes < 4096:
        raise ConfigError("logs.max_files must be at least 1 and logs.max_file_size at least 4K")
    check_network(config.network)
    check_uplink(config.uplink)
    _check_own_vlans(config)
    check_images(config.images)
    check_os(config.os)
    check_web(config.web)
    _ = config.logs.rate_bytes_per_s, config.disk.reserved


def _check_own_vlans(config: NodeConfig) -> None:
    """Raise if a VM could be in a VLAN of the node itself."""
    network, uplink = config.network, config.uplink
    if not network.bridge:
        return
    if uplink.vlan and network.management_vlan != uplink.vlan:
        raise ConfigError(
            f"uplink.vlan is {uplink.vlan}, network.management_vlan {network.management_vlan}",
            hint="both are the node's own VLAN: set the same number",
        )
    for vlan in uplink.vlans:
        if vlan.vlan in network.vids:
            raise ConfigError(
                f"VLAN {vlan.vlan} is the node's by uplink.vlans, and [network] gives it to VMs",
                hint="take it out of network.policy and network.default_vlan",
            )
