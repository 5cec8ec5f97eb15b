"""The settings of a new node, as files of the partition COS_OEM.

Owns which file holds what, with which mode, and writing them to the directory from which the hook
of the installation copies them (osimage: system/oem/30_setup.yaml). The hook runs before the system
is copied, so no node can boot without its settings. Does not own who uses them: sshd, the script
`apply-settings` in the initrd, and `nodeos.settings` when /data is mounted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qemu_node.config.node import parse
from qemu_node.config.uplink import UplinkConfig
from qemu_node.config.uplinkfile import format_uplink
from qemu_node.errors import ConfigError
from qemu_node.host.files.atomic import write_atomic
from qemu_node.host.files.directories import make_directory, open_parents
from qemu_node.host.files.tree import remove_tree
from qemu_node.nodeos.setup.login import LIVE_PASSWORD, Login, is_password
from qemu_node.nodeos.setup.seed import FILES_MAX_BYTES, Seed, check_file_names

_PRIVATE_MODE = 0o600
_DIRECTORY_MODE = 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that a new node is told."""

    hostname: str = ""
    login: Login = field(default_factory=Login)
    ssh_host_key: str = field(default="", repr=False)
    uplink: UplinkConfig | None = None
    config: Mapping[str, bytes] | None = field(default=None, repr=False)
    """Files of /data/config by their names there."""
    seed: bytes = field(default=b"", repr=False)
    oem: Mapping[str, bytes] | None = field(default=None, repr=False)
    """Files of COS_OEM that another node has saved; they count more than the rest."""


def merge(
    seed: Seed | None, live: Login, *, beside: Mapping[str, bytes] | None = None, raw: bytes = b""
) -> Settings:
    """Return the settings of a seed, and of the live system where a seed says nothing.

    Pure, but it takes the time that the check of a password takes.

    Args:
        seed: The seed, if there is one.
        live: What the live system's administrator has set.
        beside: Configuration files that lay beside the seed, by their names in /data/config.
        raw: The seed as it was read.

    Raises:
        ConfigError: the password is the one that everybody knows, or the files are too large.
    """
    if seed is None:
        return Settings(login=live)
    if seed.password_hash and is_password(LIVE_PASSWORD, seed.password_hash):
        raise ConfigError(
            f"password_hash is that of {LIVE_PASSWORD!r}, which everybody knows",
            hint="make another one with `openssl passwd -6`",
        )
    config: dict[str, bytes] = {
        **(beside or {}),
        **{name: text.encode() for name, text in seed.files.items()},
    }
    check_file_names(config)
    if sum(map(len, config.values())) > FILES_MAX_BYTES:
        raise ConfigError(f"the configuration files are larger than {FILES_MAX_BYTES >> 20} MiB")
    if "node.toml" in config:
        parse(config["node.toml"].decode(errors="replace"), "node.toml of the seed")
    return Settings(
        hostname=seed.hostname,
        login=Login(
            keys=tuple(dict.fromkeys((*seed.authorized_keys, *live.keys))),
            password_hash=seed.password_hash or live.password_hash,
        ),
        ssh_host_key=seed.ssh_host_key,
        uplink=seed.uplink,
        config=config or None,
        seed=raw,
    )


def oem_files(settings: Settings) -> dict[str, bytes]:
    """Return the files of COS_OEM by their names there: pure."""
    files: dict[str, bytes] = {}
    if settings.login.keys:
        files["ssh/authorized_keys"] = _lines(*settings.login.keys)
    if settings.login.password_hash:
        files["qemu-node/host/root-password"] = _lines(f"root:{settings.login.password_hash}")
    if settings.hostname:
        files["qemu-node/host/hostname"] = _lines(settings.hostname)
    if settings.ssh_host_key:
        files["qemu-node/host/ssh_host_ed25519_key"] = _lines(settings.ssh_host_key.strip())
    if settings.uplink:
        files["qemu-node/uplink.toml"] = format_uplink(settings.uplink).encode()
    if settings.seed:
        files["qemu-node/seed.toml"] = settings.seed
    for name, data in (settings.config or {}).items():
        files[f"qemu-node/config/{name}"] = data
    return files | dict(settings.oem or {})


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Make `directory` hold exactly `files`, for root only.

    Raises:
        HostError: the host refused; something may be there already.
    """
    remove_tree(directory)
    make_directory(directory, _DIRECTORY_MODE)
    for name, data in files.items():
        path = directory / name
        open_parents(directory, path, _DIRECTORY_MODE)
        write_atomic(path, data, mode=_PRIVATE_MODE)


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
