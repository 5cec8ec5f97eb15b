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
from qemu_node.units import Share, parse_duration, parse_share, parse_size
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


class CredentialConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[images.credentials]]`: who the node is at one source. The secrets are in files."""

    host: str
    """`host` or `host:port` of a URL or registry; `s3://bucket`."""
    namespaces: tuple[str, ...] = ()
    """Nomad namespaces whose jobs may use them; empty: all."""
    plain_http: bool = False
    """Speak http to the registry, and send the secret over http."""
    username: str = ""
    password_file: str = ""
    token_file: str = ""
    access_key_id: str = ""
    secret_key_file: str = ""
    session_token_file: str = ""
    region: str = "us-east-1"
    endpoint: str = ""
    """http(s)://host[:port] of an S3 server; empty: Amazon's of the region."""

    @property
    def is_s3(self) -> bool:
        """Whether it is for a bucket."""
        return self.host.startswith("s3://")

    @property
    def secret_files(self) -> tuple[str, ...]:
        """The files that it names."""
        named = (self.password_file, self.token_file, self.secret_key_file, self.session_token_file)
        return tuple(filter(None, named))


class ImagesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[images]`: which images jobs may use and how they are fetched."""

    image_paths: tuple[str, ...] = ()
    """Directories of this host whose files a job may name as its image."""
    pull_timeout: str = "10m"
    """How long a start waits for a download, which goes on afterwards."""
    max_size: str = "256G"
    """Largest download, and largest virtual size of a disk."""
    credentials: tuple[CredentialConfig, ...] = ()
    """For sources that ask who is there."""
    sources: tuple[str, ...] = ()
    """What jobs may name: a host, `*.domain`, or the beginning of a source. Empty: anything."""
    allow_networks: tuple[str, ...] = ()
    """Networks that may be connected to though they are refused by default."""
    refuse_networks: tuple[str, ...] = ()
    """Further networks that are never connected to."""
    ttl: str = "5m"
    """For so long after its answer a source is not asked again; prefetched images as often are."""
    downloads: int = 4
    """How many at once."""
    download_timeout: str = "6h"
    """How long one download may take."""
    unused_for: str = "7d"
    """An image that no VM has used for so long is removed."""
    low_space: str = "10%"
    """Free space of the cache's file system below which unused images are removed."""
    high_space: str = "20%"
    """Free space at which that ends."""
    prefetch: tuple[str, ...] = ()
    """Sources whose images the driver keeps in the cache."""

    @property
    def unused_for_s(self) -> float:
        """`unused_for` in seconds."""
        return parse_duration(self.unused_for)

    @property
    def low_space_share(self) -> Share:
        """`low_space` as a share of the file system."""
        return parse_share(self.low_space)

    @property
    def high_space_share(self) -> Share:
        """`high_space` as a share of the file system."""
        return parse_share(self.high_space)

    @property
    def pull_timeout_s(self) -> float:
        """`pull_timeout` in seconds."""
        return parse_duration(self.pull_timeout)

    @property
    def max_size_bytes(self) -> int:
        """`max_size` in bytes."""
        return parse_size(self.max_size)

    @property
    def ttl_s(self) -> float:
        """`ttl` in seconds."""
        return parse_duration(self.ttl)

    @property
    def download_timeout_s(self) -> float:
        """`download_timeout` in seconds."""
        return parse_duration(self.download_timeout)


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


class DiskConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[disk]`: what is kept free on the file system of `paths.data`."""

    reserve: str = "5%"
    """A share or a size; with less free no VM starts and nothing is downloaded."""

    @property
    def reserved(self) -> Share:
        """`reserve` as a share of the file system."""
        return parse_share(self.reserve)


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """node.toml as a whole; only the entry points see it."""

    paths: Paths = msgspec.field(default_factory=lambda: default_paths())
    images: ImagesConfig = ImagesConfig()
    qemu: QemuConfig = QemuConfig()
    logs: LogsConfig = LogsConfig()
    network: NetworkConfig = NetworkConfig()
    disk: DiskConfig = DiskConfig()


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
    _check_images(config.images)
    _ = config.logs.rate_bytes_per_s, config.disk.reserved


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


def _check_images(images: ImagesConfig) -> None:
    if images.downloads < 1:
        raise ConfigError("images.downloads must be at least 1")
    for credential in images.credentials:
        _check_credential(credential)
    _check_distinct(images.credentials)
    _ = images.pull_timeout_s, images.max_size_bytes, images.ttl_s, images.download_timeout_s
    _ = images.unused_for_s
    low, high = images.low_space_share, images.high_space_share
    is_comparable = (low.pct is None) == (high.pct is None)
    if is_comparable and (high.pct or high.size_bytes) < (low.pct or low.size_bytes):
        raise ConfigError(
            f"images.high_space ({images.high_space}) is less than images.low_space "
            f"({images.low_space})"
        )


# A bucket's name is what DNS takes; old ones may have capitals and underscores.
_CREDENTIAL_HOST = re.compile(
    r"s3://[A-Za-z0-9][A-Za-z0-9._-]{2,254}"
    r"|(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
)
_S3_ENDPOINT = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?")
_REGION = re.compile(r"[a-z0-9-]+")
# RFC 7617, 2: the first colon ends the user's name.
_USERNAME = re.compile(r"[^:\x00-\x1f\x7f]+")


def _check_credential(entry: CredentialConfig) -> None:
    """Raise for an entry that cannot be meant so."""
    name = f"images.credentials of {entry.host!r}"
    if not _CREDENTIAL_HOST.fullmatch(entry.host):
        raise ConfigError(
            f"{name}: the host is wrong", hint='write "host", "host:port" or "s3://bucket"'
        )
    for path in entry.secret_files:
        if not path.startswith("/"):
            raise ConfigError(f"{name}: {path!r} must be an absolute path")
    pairs = {
        "username and password_file": (entry.username, entry.password_file),
        "token_file": (entry.token_file,),
        "access_key_id and secret_key_file": (entry.access_key_id, entry.secret_key_file),
    }
    kinds = [kind for kind, values in pairs.items() if any(values)]
    if len(kinds) > 1:
        raise ConfigError(f"{name} has more than one of {'; '.join(kinds)}")
    for kind in kinds:
        if not all(pairs[kind]):
            raise ConfigError(f"{name} needs both {kind}")
    if entry.is_s3:
        _check_s3_credential(name, entry, kinds)
        return
    if "access_key_id and secret_key_file" in kinds or entry.session_token_file or entry.endpoint:
        raise ConfigError(f"{name} has settings of S3", hint='they go with host = "s3://bucket"')
    if not kinds and not entry.plain_http:
        raise ConfigError(f"{name} names no secret: set one of {'; '.join(pairs)}")
    if entry.username and not _USERNAME.fullmatch(entry.username):
        raise ConfigError(f"{name}: username holds a colon or a control character")


def _check_s3_credential(name: str, entry: CredentialConfig, kinds: list[str]) -> None:
    if entry.plain_http:
        raise ConfigError(f"{name} has plain_http", hint="for S3 the endpoint says it: http://…")
    if kinds and not entry.access_key_id:
        raise ConfigError(f"{name} has {kinds[0]}, S3 takes access_key_id and secret_key_file")
    if entry.session_token_file and not entry.access_key_id:
        raise ConfigError(f"{name} has session_token_file without access_key_id")
    if entry.endpoint and not _S3_ENDPOINT.fullmatch(entry.endpoint):
        raise ConfigError(f"{name}: endpoint is not http(s)://host[:port]: {entry.endpoint!r}")
    if not _REGION.fullmatch(entry.region):
        raise ConfigError(f"{name}: region is wrong: {entry.region!r}")
    if not entry.access_key_id.isascii() or "/" in entry.access_key_id:
        raise ConfigError(f"{name}: access_key_id is wrong")


def canonical_host(host: str) -> str:
    """Return `host`, `host:port` or `s3://bucket` as it is compared: lower case, without 443."""
    return host if host.startswith("s3://") else host.lower().removesuffix(":443")


def _check_distinct(entries: tuple[CredentialConfig, ...]) -> None:
    """Raise where two entries would serve the same namespace at the same host."""
    seen: set[tuple[str, str | None]] = set()
    for entry in entries:
        for namespace in set(entry.namespaces) or (None,):
            served = (canonical_host(entry.host), namespace)
            if served in seen:
                whom = f"namespace {namespace!r}" if namespace else "all namespaces"
                raise ConfigError(
                    f"images.credentials has two entries of {entry.host!r} for {whom}"
                )
            seen.add(served)
