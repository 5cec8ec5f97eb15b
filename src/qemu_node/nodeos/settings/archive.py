"""A node's whole configuration in one file: a gzipped tar.

Owns what belongs to it, writing and reading it. It has no data of VMs, no images and nothing of
Nomad's state. It holds secrets: the host key, the password's hash, TLS keys, Nomad's gossip key.
Does not own putting it back (`restore`).
"""

import io
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qemu_node.errors import ConfigError
from qemu_node.host.files.atomic import host_error
from qemu_node.host.files.reading import read_or_empty
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.release import IMAGE_ID
from qemu_node.nodeos.setup.login import own_password, parse_keys
from qemu_node.nodeos.setup.seed import check_file_names

VERSION = 1
_MANIFEST = "node.json"
_CONFIG = "config/"
_OEM = "oem/"
_UNPACKED_MAX_BYTES = 64 << 20
_FILES_MAX = 2000
_SAVED_MAX_BYTES = 32 << 20
_SAVED_MAX = 900
"""Of /oem and of /data/config each: what is saved must be taken back."""
_PASSWORD = "qemu-node/host/root-password"

# Files of /oem that an archive may have. YAML files are what the operator gave to
# `elemental install --cloud-init`.
_OEM_NAME = re.compile(
    r"ssh/authorized_keys|qemu-node/uplink\.toml"
    r"|qemu-node/host/(?:hostname|root-password|ssh_host_ed25519_key)"
    r"|[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}\.ya?ml"
)
IDENTITY = frozenset({"qemu-node/host/hostname", "qemu-node/host/ssh_host_ed25519_key"})
"""What two nodes must not share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """The content of an archive."""

    oem: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Files of /oem by their names there."""
    config: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Files of /data/config by their names there."""
    tag: str = ""
    """The image that ran when it was saved."""

    def without_identity(self) -> "Saved":
        """Return this for another node: pure."""
        kept = {name: data for name, data in self.oem.items() if name not in IDENTITY}
        return Saved(oem=kept, config=self.config, tag=self.tag)


def collect(paths: NodePaths, tag: str) -> Saved:
    """Return the configuration of the running node.

    Raises:
        HostError: a file cannot be read.
        ConfigError: it is more than an archive may hold.
    """
    oem = dict(_read_files(paths.oem, is_wanted=_OEM_NAME.fullmatch))
    # Set by hand, they are in the memory of this boot, or on a partition that a reset clears.
    password = own_password(read_or_empty(paths.root / "etc/shadow"))
    if password:
        oem[_PASSWORD] = f"root:{password}\n".encode()
    keys = parse_keys(
        oem.get("ssh/authorized_keys", b"").decode(errors="replace")
        + "\n"
        + read_or_empty(paths.root / "root/.ssh/authorized_keys")
    )
    if keys:
        oem["ssh/authorized_keys"] = "".join(f"{key}\n" for key in keys).encode()
    host_key = paths.root / "etc/ssh/ssh_host_ed25519_key"
    if host_key.exists():
        oem["qemu-node/host/ssh_host_ed25519_key"] = host_key.read_bytes()
    return Saved(oem=oem, config=dict(_read_files(paths.config)), tag=tag)


def pack(saved: Saved) -> bytes:
    """Return the archive of `saved`: pure, the same bytes for the same content."""
    manifest = {"version": VERSION, "image": IMAGE_ID, "tag": saved.tag}
    files = {_MANIFEST: json.dumps(manifest, indent=2).encode()}
    files |= {_OEM + name: data for name, data in saved.oem.items()}
    files |= {_CONFIG + name: data for name, data in saved.config.items()}
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            member.mode = 0o600
            tar.addfile(member, io.BytesIO(files[name]))
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(plain.getvalue()) + packer.flush()


def unpack(data: bytes, origin: str) -> Saved:
    """Return what is in the archive `data`; errors name `origin`. Pure; takes any bytes.

    Raises:
        ConfigError: it is no archive of a node, or holds what no node has saved.
    """
    files = dict(_members(_inflate(data, origin), origin))
    tag = _check_manifest(files.pop(_MANIFEST, b""), origin)
    oem, config = {}, {}
    for name, content in files.items():
        if name.startswith(_CONFIG):
            config[name.removeprefix(_CONFIG)] = content
        elif name.startswith(_OEM) and _OEM_NAME.fullmatch(name.removeprefix(_OEM)):
            oem[name.removeprefix(_OEM)] = content
        else:
            raise ConfigError(f"{origin} holds {name[:100]!r}, which no node has saved")
    try:
        check_file_names(config)
    except ConfigError as exc:
        raise ConfigError(f"{origin}: {exc}") from exc
    if _PASSWORD in oem and not own_password(oem[_PASSWORD].decode(errors="replace")):
        raise ConfigError(
            f"{origin}: {_PASSWORD} is no password of the node's own: it is empty, no hash, or "
            "that of the live system, which everybody knows"
        )
    return Saved(oem=oem, config=config, tag=tag)


def _inflate(data: bytes, origin: str) -> bytes:
    try:
        unpacker = zlib.decompressobj(31)
        plain = unpacker.decompress(data, _UNPACKED_MAX_BYTES)
    except zlib.error as exc:
        raise ConfigError(f"{origin} is no archive of `qemu-node os save`: {exc}") from exc
    if unpacker.unconsumed_tail or not unpacker.eof:
        reason = "too large" if unpacker.unconsumed_tail else "cut off"
        raise ConfigError(f"{origin} is {reason}")
    return plain


def _members(plain: bytes, origin: str) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
            for count, member in enumerate(tar):
                # A sparse file of a few bytes is terabytes when it is read.
                if not member.isreg() or member.issparse() or count > _FILES_MAX:
                    raise ConfigError(f"{origin} holds {member.name[:100]!r}, which is no file")
                file = tar.extractfile(member)
                yield member.name, file.read() if file else b""
    # ValueError, UnicodeError: numbers and names in a header that mean nothing.
    except (tarfile.TarError, ValueError, EOFError, OSError, OverflowError) as exc:
        raise ConfigError(f"{origin} is no archive of `qemu-node os save`: {exc}") from exc


def _check_manifest(data: bytes, origin: str) -> str:
    try:
        manifest = json.loads(data)
        version, tag = manifest["version"], manifest["tag"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ConfigError(f"{origin} is no archive of `qemu-node os save`") from exc
    if version != VERSION or not isinstance(tag, str):
        raise ConfigError(
            f"{origin} has another version of the format",
            hint="restore it on the image that wrote it",
        )
    return tag


def _read_files(
    directory: Path, is_wanted: Callable[[str], object] = lambda _: True
) -> Iterator[tuple[str, bytes]]:
    """Yield the regular files below `directory` by their names there; links are left out.

    Raises:
        HostError: one cannot be read.
        ConfigError: they are too many or too large.
    """
    if not directory.is_dir():
        return
    size_bytes, count = 0, 0
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if not is_wanted(name) or path.is_symlink() or not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                data = file.read(_SAVED_MAX_BYTES + 1)
        except OSError as exc:
            raise host_error("read", path, exc) from exc
        size_bytes, count = size_bytes + len(data), count + 1
        if size_bytes > _SAVED_MAX_BYTES or count > _SAVED_MAX:
            raise ConfigError(
                f"{directory} has more than {_SAVED_MAX_BYTES >> 20} MiB or {_SAVED_MAX} files, "
                f"seen at {path}",
                hint="move what is no configuration out of it, such as /data/files",
            )
        yield name, data
