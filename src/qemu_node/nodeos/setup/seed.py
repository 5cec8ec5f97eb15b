"""A seed: the answers to what an installation asks, written down before it. Pure.

Owns the format of seed.toml and its checks. Does not own where a seed is found (`source`), which
disk a pattern means (`choice`) nor `[uplink]` (`config.uplink`).
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Literal, get_args

import msgspec

from qemu_node.config.uplink import UplinkConfig, check_uplink
from qemu_node.errors import ConfigError
from qemu_node.text import nearest
from qemu_node.units import parse_size

SEED_MAX_BYTES = 1 << 20
FILES_MAX_BYTES = 16 << 20
"""All configuration files together: they wait on the partition COS_OEM for the first boot."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_HOST_NAME_MAX_CHARS = 64  # HOST_NAME_MAX of Linux

# The beginnings of crypt(5) that Debian 13 accepts and that are not weak.
_PASSWORD_HASH = re.compile(r"\$(?:y|gy|7|6|5|2[aby])\$[./0-9A-Za-z$,=]{8,250}")

_KEY_TYPE = re.compile(
    r"(?:^|\s)(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp(?:256|384|521)"
    r"|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)\s+AAAA[0-9A-Za-z+/]{16,}={0,3}(?:\s|$)"
)

_PRIVATE_KEY = re.compile(
    r"\s*-----BEGIN OPENSSH PRIVATE KEY-----\n[0-9A-Za-z+/=\n]{100,8000}"
    r"-----END OPENSSH PRIVATE KEY-----\s*"
)


class DiskPattern(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which disk is meant. A disk must match all that is given; patterns have `*`, `?`, `[]`."""

    path: str = ""
    """/dev/sda, or one of the names in /dev/disk/by-path and by-id."""
    model: str = ""
    serial: str = ""
    wwn: str = ""
    transport: str = ""
    """How it is connected: nvme, sata, sas, virtio …"""
    min_size: str = ""
    max_size: str = ""
    rotational: bool | None = None
    choose: Literal["only", "smallest", "largest"] = "only"
    """Which one if several match. `only`: none, the installation is refused."""
    wipe: bool = False
    """Whether it may be erased if it is not empty."""

    @property
    def min_bytes(self) -> int:
        """`min_size` in bytes."""
        return parse_size(self.min_size) if self.min_size else 0

    @property
    def max_bytes(self) -> int:
        """`max_size` in bytes; larger than any disk if there is none."""
        return parse_size(self.max_size) if self.max_size else 1 << 63

    @property
    def is_empty(self) -> bool:
        """Whether nothing is given by which one disk could be told from another."""
        named = (self.path, self.model, self.serial, self.wwn, self.transport, self.min_size)
        return not any((*named, self.max_size)) and self.rotational is None


class DataPattern(DiskPattern, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The disk of /data. If it has a file system DATA already, that is kept."""

    same_disk: bool = False
    """/data is a partition of the system's disk, with the space that is left."""


class Seed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole seed.toml."""

    hostname: str = ""
    """Empty: the DHCP server gives it (option 12)."""
    password_hash: str = ""
    """root's password on the console, as `openssl passwd -6` prints it. Empty: no password."""
    authorized_keys: tuple[str, ...] = ()
    """Who may log in as root by ssh."""
    after: Literal["reboot", "poweroff", "stay"] = "reboot"
    """What the machine does after an installation."""
    generation: int = 1
    """A seed does not install its own node again. Another number makes it another seed."""
    disk: DiskPattern = DiskPattern()
    data: DataPattern | None = None
    ssh_host_key: str = ""
    """sshd's private Ed25519 key, by which clients know the node. Empty: the node makes its own."""
    uplink: UplinkConfig | None = None
    """The node's network cards, addresses and VLANs: as `[uplink]` of node.toml."""
    files: Mapping[str, str] = {}
    """Files of /data/config by name: node.toml, client.hcl, tls/ca.pem …"""


def parse_seed(data: bytes, origin: str) -> Seed:
    """Return the seed in `data`, the content of a seed.toml; errors name `origin`.

    Raises:
        ConfigError: it is no TOML, has an unknown key or a wrong value.
    """
    if len(data) > SEED_MAX_BYTES:
        raise ConfigError(f"{origin} is larger than a seed may be ({SEED_MAX_BYTES >> 20} MiB)")
    try:
        raw = tomllib.loads(data.decode("utf-8-sig").replace("\r\n", "\n"))
    except (ValueError, RecursionError) as exc:
        # ValueError: not UTF-8, not TOML, or a number with more digits than Python reads.
        raise ConfigError(f"{origin} is not TOML: {exc}") from exc
    try:
        seed = msgspec.convert(raw, Seed)
        _check(seed)
    except msgspec.ValidationError as exc:
        raise _explained(exc, origin) from exc
    except ConfigError as exc:
        raise ConfigError(f"{origin}: {exc}", hint=exc.hint) from exc
    return seed


def check_hostname(name: str) -> None:
    """Raise if `name` is no host name.

    Raises:
        ConfigError: it is not.
    """
    if len(name) > _HOST_NAME_MAX_CHARS or not _HOST_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no host name", hint="write it in lower-case letters, digits and hyphens"
        )


def check_password_hash(value: str) -> None:
    """Raise if `value` is no hash of a password.

    Raises:
        ConfigError: it is not.
    """
    if not _PASSWORD_HASH.fullmatch(value):
        raise ConfigError(
            "password_hash is no hash of a password",
            hint="make one with `openssl passwd -6`; a password in clear text is not taken",
        )


def check_key(line: str) -> None:
    """Raise if `line` is no line of an authorized_keys file.

    Raises:
        ConfigError: it is not.
    """
    if "PRIVATE KEY" in line:
        raise ConfigError("authorized_keys holds a private key", hint="give the .pub file's line")
    if not line.isprintable() or not _KEY_TYPE.search(line):
        raise ConfigError(
            f"authorized_keys: {line[:40]!r} is no public key",
            hint="give the line of a .pub file, such as ssh-ed25519 AAAA… name",
        )


def check_file_names(names: Iterable[str]) -> None:
    """Raise unless each of `names` is a file below /data/config.

    Raises:
        ConfigError: one of them is not.
    """
    known = set(names)
    for name in sorted(known):
        path = PurePosixPath(name)
        parts = name.split("/")
        if (
            not name.isprintable()
            or len(name) > 200
            or not all(part and part not in (".", "..") for part in parts)
        ):
            raise ConfigError(
                f"files: {name[:60]!r} is no name of a file in /data/config",
                hint='write it as "client.hcl" or "tls/ca.pem"',
            )
        for parent in map(str, path.parents):
            if parent in known:
                raise ConfigError(f"files: {parent} is a file and the directory of {name}")


def _check(seed: Seed) -> None:
    """Raise for what the types allow but makes no sense."""
    if seed.hostname:
        check_hostname(seed.hostname)
    if seed.password_hash:
        check_password_hash(seed.password_hash)
    for line in seed.authorized_keys:
        check_key(line)
    if seed.ssh_host_key and not _PRIVATE_KEY.fullmatch(seed.ssh_host_key):
        raise ConfigError(
            "ssh_host_key is no private key of OpenSSH",
            hint="give the whole file that `ssh-keygen -t ed25519 -N '' -f FILE` writes",
        )
    check_file_names(seed.files)
    if (
        sum(len(text.encode(errors="surrogatepass")) for text in seed.files.values())
        > SEED_MAX_BYTES
    ):
        raise ConfigError("files are larger than a seed may be")
    if seed.uplink is not None:
        check_uplink(seed.uplink)
    _check_pattern("disk", seed.disk)
    if seed.data is not None:
        _check_pattern("data", seed.data)
        if seed.data.same_disk and not seed.data.is_empty:
            raise ConfigError("data.same_disk means the system's disk, so no other disk is named")
        if not seed.data.same_disk and seed.data.is_empty and seed.data.choose == "only":
            raise ConfigError(
                "data names no disk", hint="give a pattern such as serial, or same_disk = true"
            )


def _check_pattern(name: str, pattern: DiskPattern) -> None:
    for bound in ("min_size", "max_size"):
        try:
            parse_size(getattr(pattern, bound) or "0")
        except ConfigError as exc:
            raise ConfigError(f"{name}.{bound}: {exc}", hint=exc.hint) from exc
    if pattern.min_bytes > pattern.max_bytes:
        raise ConfigError(f"{name}.min_size is larger than {name}.max_size")


_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*?)`(?: - at `\$\.?(?P<at>.*)`)?$")


def _explained(exc: msgspec.ValidationError, origin: str) -> ConfigError:
    """Return msgspec's error in the words of the seed."""
    unknown = _UNKNOWN.match(str(exc))
    if unknown is None:
        return ConfigError(f"{origin}: {str(exc).replace('`$.', '`')}")
    section = unknown["at"] or ""
    struct: type[msgspec.Struct] = Seed
    for field in msgspec.structs.fields(Seed):
        if field.name == section:
            struct = next((t for t in get_args(field.type) if t is not type(None)), field.type)
    near = nearest(unknown["name"], struct.__struct_fields__)
    path = ".".join(filter(None, (section, unknown["name"])))[:80]
    hint = f"did you mean {near}?" if near else "docs/os-install.md lists all of them"
    return ConfigError(f"{origin}: there is no setting {path}", hint=hint)
