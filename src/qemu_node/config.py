"""node.toml: the operator's settings, read once into one frozen value.

Owns the names, defaults and checks of every setting. Each component is handed its own section,
never the whole. A missing file means the defaults; an unknown key is an error that names it.
"""

import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from qemu_node.errors import ConfigError
from qemu_node.units import parse_duration, parse_size
from qemu_node.vlans import VID_MAX, VID_MIN, is_vid, parse_vlans

CONFIG_ENV = "QEMU_NODE_CONFIG"
"""Environment variable that names another node.toml than the default one."""

# sun_path holds 108 bytes with its NUL (man 7 unix). Below run_dir come "/vm/", a vm_id of at most
# 29 bytes and "/monitor.sock".
_RUN_DIR_MAX_BYTES = 107 - len("/vm/") - 29 - len("/monitor.sock")

# What the kernel takes as a name (dev_valid_name in net/core/dev.c) is more; this much needs no
# quoting anywhere and cannot be mistaken for an option.
_IFNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")


class Paths(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where this node keeps things."""

    run: str
    """Sockets and vm.json of live VMs; may vanish at a reboot."""
    data: str
    """Overlays, varstores, logs and the image cache."""

    @property
    def run_dir(self) -> Path:
        """The directory of sockets and locks."""
        return Path(self.run)

    @property
    def vm_run_dir(self) -> Path:
        """One directory per VM: vm.json and sockets."""
        return Path(self.run) / "vm"

    @property
    def vm_data_dir(self) -> Path:
        """One directory per VM: its disk, varstore, config drive, logs."""
        return Path(self.data) / "vm"

    @property
    def images_dir(self) -> Path:
        """The image cache."""
        return Path(self.data) / "images"


class ImagesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[images]`: which images jobs may use and how they are fetched."""

    image_paths: tuple[str, ...] = ()
    """Directories of this host whose files a job may name as its image."""
    pull_timeout: str = "10m"
    """How long a start waits for a download, which goes on afterwards."""
    max_size: str = "256G"
    """Largest download, and largest virtual size of a disk."""

    @property
    def pull_timeout_s(self) -> float:
        """`pull_timeout` in seconds."""
        return parse_duration(self.pull_timeout)

    @property
    def max_size_bytes(self) -> int:
        """`max_size` in bytes."""
        return parse_size(self.max_size)


class QemuConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[qemu]`: the hypervisor and what jobs may ask of it."""

    binary: str = "qemu-system-x86_64"
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    """`auto`: KVM where a guest was seen to run under it, else TCG."""
    firmware_dirs: tuple[str, ...] = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")
    """Directories of QEMU's firmware descriptors (docs/interop/firmware.json), first match wins."""
    merge: bool = True
    """KSM for VMs whose job does not say."""
    allow_args: tuple[str, ...] = ()
    """Regular expressions; a job's raw option must match one of them in full."""
    first_uid: int = 200_000
    uid_count: int = 10_000
    """VMs run as users `first_uid` … `first_uid + uid_count - 1`, one each, when we are root."""


class LogsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[logs]`: bounds of what a guest can print into its task's log."""

    max_files: int = 10
    max_file_size: str = "10M"
    rate: str = "1M"
    """Bytes a second that one guest may log for long; what comes faster waits, up to 32 MiB."""

    @property
    def max_file_bytes(self) -> int:
        """`max_file_size` in bytes."""
        return parse_size(self.max_file_size)

    @property
    def rate_bytes_per_s(self) -> int:
        """`rate` in bytes a second."""
        return parse_size(self.rate)


class NetworkPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[network.policy]]`: what jobs of some namespaces may ask of the network."""

    namespaces: tuple[str, ...]
    """Nomad namespaces; `*` and `?` stand for any characters, any one character."""
    vlans: tuple[str, ...]
    """Numbers and ranges, `"100-199"`."""
    trunk: bool = False
    """Whether a NIC may carry several VLANs, tagged."""
    mac: bool = False
    """Whether a job may choose a NIC's address."""
    addresses: tuple[str, ...] = ()
    """Networks that the VMs' IP source addresses must be in; none given: any address."""

    @property
    def vids(self) -> frozenset[int]:
        """`vlans` as numbers."""
        return parse_vlans(self.vlans)


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[network]`: the node's bridge, and who may use which VLAN of it."""

    bridge: str = ""
    """The bridge with VLAN filtering that VMs are ports of; empty: user mode only."""
    uplink: str = ""
    """The bridge's port that leads out of the node; empty: VMs of this node among themselves."""
    default_vlan: int = 0
    """VLAN of VMs whose job names none, whatever their namespace; 0: these get user mode."""
    management_vlan: int = 0
    """The node's own VLAN, refused to every VM; 0: the node's own frames are in none."""
    allow_host: bool = False
    """Whether guests in user mode may reach services of this very node."""
    vhost: Literal["auto", "off"] = "auto"
    """`auto`: the kernel moves frames between TAP and guest (vhost-net) where it can."""
    policy: tuple[NetworkPolicy, ...] = ()


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """node.toml as a whole; only the entry points see it."""

    paths: Paths = msgspec.field(default_factory=lambda: default_paths())
    images: ImagesConfig = ImagesConfig()
    qemu: QemuConfig = QemuConfig()
    logs: LogsConfig = LogsConfig()
    network: NetworkConfig = NetworkConfig()


def default_paths() -> Paths:
    """Return root's directories, or a user's own under the XDG ones."""
    if os.geteuid() == 0:
        return Paths(run="/run/qemu-node", data="/data")
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Paths(run=f"{runtime}/qemu-node", data=f"{data}/qemu-node")


def default_path() -> Path:
    """Return where node.toml is looked for: `$QEMU_NODE_CONFIG`, else the data directory."""
    named = os.environ.get(CONFIG_ENV)
    return Path(named) if named else Path(default_paths().data) / "config" / "node.toml"


def parse(text: str, origin: str) -> NodeConfig:
    """Return the settings in `text`, TOML; `origin` names it in errors.

    Raises:
        ConfigError: not TOML, an unknown key, or a wrong value; the message names the key.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{origin} is not TOML: {exc}") from exc
    defaults = default_paths()
    raw["paths"] = {"run": defaults.run, "data": defaults.data} | raw.get("paths", {})
    try:
        config = msgspec.convert(raw, NodeConfig)
        _check(config)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{origin}: {_explain(exc)}") from exc
    except ConfigError as exc:
        raise ConfigError(f"{origin}: {exc}", hint=exc.hint) from exc
    return config


_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`(?: - at `\$\.?(?P<at>.*)`)?$")


def _explain(exc: msgspec.ValidationError) -> str:
    """Return msgspec's finding in the words of somebody who edits the file."""
    unknown = _UNKNOWN.match(str(exc))
    if unknown is None:
        return str(exc).replace("`$.", "`")
    path = ".".join(filter(None, (unknown["at"], unknown["name"])))
    return f"there is no setting {path}"


def load(path: Path | None = None) -> NodeConfig:
    """Return the settings in `path`; without one, in the default file, which may be missing.

    Raises:
        ConfigError: `path` cannot be read or its content is wrong.
    """
    chosen = path if path is not None else default_path()
    try:
        text = chosen.read_text()
    except FileNotFoundError:
        if path is not None or CONFIG_ENV in os.environ:
            raise ConfigError(f"{chosen}: no such file") from None
        config = NodeConfig()
        _check(config)
        return config
    except OSError as exc:
        raise ConfigError(f"{chosen}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{chosen} is not UTF-8 text") from exc
    return parse(text, str(chosen))


def _check(config: NodeConfig) -> None:
    """Raise for values that have the right type and make no sense."""
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
    _check_network(config.network)
    _ = config.images.pull_timeout_s, config.images.max_size_bytes, config.logs.rate_bytes_per_s


def _check_network(network: NetworkConfig) -> None:
    """Raise for a section `[network]` that no bridge can follow."""
    for name, value in (("bridge", network.bridge), ("uplink", network.uplink)):
        if value and _IFNAME.fullmatch(value) is None:
            raise ConfigError(
                f"network.{name} is not the name of a network interface: {value!r}",
                hint="at most 15 letters, digits, dots, dashes and underscores",
            )
    if not network.bridge and (network.uplink or network.default_vlan):
        raise ConfigError("network.uplink and network.default_vlan need a network.bridge")
    for name, vid in (
        ("default_vlan", network.default_vlan),
        ("management_vlan", network.management_vlan),
    ):
        if vid and not is_vid(vid):
            raise ConfigError(f"network.{name} must be 0 or {VID_MIN} to {VID_MAX}, not {vid}")
    if network.default_vlan and network.default_vlan == network.management_vlan:
        raise ConfigError("network.default_vlan is the network.management_vlan")
    for number, rule in enumerate(network.policy, start=1):
        try:
            _ = rule.vids, [ipaddress.ip_network(address) for address in rule.addresses]
        except (ConfigError, ValueError) as exc:
            hint = exc.hint if isinstance(exc, ConfigError) else 'write it as "10.20.0.0/16"'
            raise ConfigError(f"network.policy {number}: {exc}", hint=hint) from exc
        if not rule.namespaces or not rule.vlans:
            raise ConfigError(f"network.policy {number} has no namespaces or no vlans")
