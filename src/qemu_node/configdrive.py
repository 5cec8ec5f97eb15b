"""The config drive: an ISO with which a guest configures itself at its first boot.

Owns its content: the files of the task's `local/config-drive`, unchanged, and a meta_data.json that
has at least the VM's uuid, hostname and name. The layout is that of OpenStack's `config-2` drive,
which cloud-init and cloudbase-init read; Windows setup finds an unattend.xml at the root of any CD.
Does not own the templates, which Nomad renders, nor the VM's name.
"""

import json
import os
import re
import stat
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from qemu_node.errors import JobError
from qemu_node.host.files import atomic, beneath

VOLUME_LABEL = "config-2"
"""The label by which cloud-init (DataSourceConfigDrive) and cloudbase-init find the drive."""

_SOURCE = "local/config-drive"
_META_DATA = "meta_data.json"
_MAX_FILES = 256
_MAX_ENTRIES = 1024  # files and directories
_MAX_BYTES = 32 << 20
# ISO 9660 has eight levels, the root included (ECMA-119 6.8.2.1); Rock Ridge would relocate deeper
# directories.
_MAX_DEPTH = 8

HOSTNAME_MAX_CHARS = 63  # one label, RFC 1123 2.1
_HOSTNAME_FALLBACK = "vm"
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as inet_aton(3) reads one

# Joliet 3.4: 64 UCS-2 characters, some excluded; pycdlib counts them as bytes of UTF-8.
_NAME_MAX_BYTES = 64
_JOLIET_EXCLUDED = frozenset('*/:;?\\"<>|')
_JOLIET_MAX_PATH_BYTES = 240
_MODE_FILE = 0o100444
_MODE_DIRECTORY = 0o040555


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDrive:
    """The files of a drive by path, and the host name that the guest will read from them."""

    files: dict[str, bytes]
    hostname: str


def read_config_drive(task_dir: Path) -> dict[str, bytes]:
    """Return the files below `local/config-drive` of a task by path; empty if there are none.

    No link is followed: the task can change its directory, and we may be root.

    Raises:
        JobError: there is something else than files and directories, or the files are too many,
            too large or not readable. The message names the file.
    """
    try:
        task_fd = os.open(task_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise JobError(f"cannot read {task_dir}: {exc.strerror}") from exc
    try:
        if not _exists(task_fd):
            return {}
        reader = _TreeReader(task_fd)
        reader.read_directory("", 1)
        return reader.files
    finally:
        os.close(task_fd)


def complete(files: Mapping[str, bytes], *, uuid: str, hostname: str, name: str) -> ConfigDrive:
    """Return `files` with the meta data that every guest needs; existing keys are not changed.

    Each version directory of `openstack/`, and always `latest`, gets a meta_data.json: a guest
    reads only the newest version that it knows. Pure.

    Args:
        files: The job's own files by path.
        uuid: The VM's; cloud-init uses it as the instance id.
        hostname: Used if the job's files name none; made valid first.
        name: The instance's name in messages.

    Raises:
        JobError: a meta_data.json of the job is not a JSON object; the message says where.
    """
    defaults = {"uuid": uuid, "hostname": sanitise_hostname(hostname), "name": name}
    completed = dict(files)
    versions = {path.split("/")[1] for path in files if re.match(r"openstack/[^/]+/", path)}
    for version in sorted((versions - {"content"}) | {"latest"}):
        path = f"openstack/{version}/{_META_DATA}"
        completed[path] = _complete_meta_data(path, files.get(path), defaults)
    latest = f"openstack/latest/{_META_DATA}"
    effective = json.loads(completed[latest])["hostname"]
    if not isinstance(effective, str):
        raise JobError(f"{_SOURCE}/{latest}: hostname is not a string")
    return ConfigDrive(files=completed, hostname=sanitise_hostname(effective.split(".")[0]))


def sanitise_hostname(text: str) -> str:
    """Return the nearest valid host name of one label (RFC 1123): `Web Ü/1` → `web-u-1`.

    A number, which a resolver would read as an address (`0` is 0.0.0.0), gets the prefix `vm-`.
    """
    label = host_label(text)[:HOSTNAME_MAX_CHARS].rstrip("-")
    if _NUMBER.fullmatch(label):
        label = f"{_HOSTNAME_FALLBACK}-{label}"[:HOSTNAME_MAX_CHARS]
    return label or _HOSTNAME_FALLBACK


def host_label(text: str) -> str:
    """Return `text` reduced to the letters, digits and hyphens of a host name, of any length."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")


def write_iso(path: Path, files: Mapping[str, bytes], owner: tuple[int, int] | None) -> None:
    """Write `files` to the ISO `path`, which `owner` alone may read.

    Joliet and Rock Ridge carry the real names to Windows and Linux.

    Raises:
        JobError: Joliet cannot represent the name of a file; nothing was written.
        HostError: the host refused; nothing is left of the file.
    """
    for name in files:
        _check_name(name)
        for parent in Path(name).parents:
            if str(parent) in files:
                raise JobError(f"config drive: {str(parent)!r} must be a directory, not a file")
    # It may contain passwords: only the VM's user may read it, and no user may write it.
    atomic.write_atomic(path, _build_iso(files), mode=0o400, owner=owner)


def _exists(task_fd: int) -> bool:
    try:
        os.close(beneath.open_beneath(task_fd, _SOURCE, os.O_RDONLY | os.O_DIRECTORY))
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise JobError(f"{_SOURCE} is not a directory, or a link leads to it") from exc
    return True


class _TreeReader:
    """Reads a directory tree into memory, up to the limits."""

    def __init__(self, task_fd: int) -> None:
        self._task_fd = task_fd
        self._bytes = 0
        self._entries = 0
        self.files: dict[str, bytes] = {}

    def read_directory(self, relative: str, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise JobError(f"{_SOURCE}/{relative} is more than {_MAX_DEPTH} levels deep")
        fd = self._open(relative, os.O_DIRECTORY)
        try:
            names = sorted(entry.name for entry in os.scandir(fd))
            self._entries += len(names)
            if self._entries > _MAX_ENTRIES:
                raise JobError(f"{_SOURCE} holds more than {_MAX_ENTRIES} files and directories")
            for name in names:
                child = f"{relative}/{name}" if relative else name
                # Checked before it is opened: to open a device may have an effect.
                mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    self.read_directory(child, depth + 1)
                elif stat.S_ISREG(mode):
                    self.files[child] = self._read_file(child)
                else:
                    raise JobError(f"{_SOURCE}/{child} is a link or not a regular file")
        except OSError as exc:
            raise JobError(f"cannot read {_SOURCE}/{relative}: {exc.strerror}") from exc
        finally:
            os.close(fd)

    def _read_file(self, relative: str) -> bytes:
        if len(self.files) == _MAX_FILES:
            raise JobError(f"{_SOURCE} holds more than {_MAX_FILES} files")
        fd = self._open(relative, os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not beneath.is_plain_file(fd):
                raise JobError(f"{_SOURCE}/{relative} is a hard link or not a regular file")
            content = file.read(_MAX_BYTES - self._bytes + 1)
        self._bytes += len(content)
        if self._bytes > _MAX_BYTES:
            raise JobError(f"{_SOURCE} holds more than {_MAX_BYTES >> 20} MiB")
        return content

    def _open(self, relative: str, flags: int) -> int:
        path = f"{_SOURCE}/{relative}" if relative else _SOURCE
        try:
            return beneath.open_beneath(self._task_fd, path, os.O_RDONLY | flags)
        except OSError as exc:
            raise JobError(f"cannot read {path}: {exc.strerror}") from exc


def _complete_meta_data(path: str, content: bytes | None, defaults: Mapping[str, str]) -> bytes:
    """Return `content` with the keys that it lacks; unchanged if it lacks none."""
    given: object = {}
    if content is not None:
        try:
            given = json.loads(content)
        except json.JSONDecodeError as exc:
            raise JobError(
                f"{_SOURCE}/{path} is not JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}"
            ) from exc
        except (ValueError, RecursionError) as exc:  # Not UTF-8, too large a number, too deep.
            raise JobError(f"{_SOURCE}/{path} is not JSON: {exc}") from exc
    if not isinstance(given, dict):
        raise JobError(f"{_SOURCE}/{path} is not a JSON object")
    if content is not None and defaults.keys() <= given.keys():
        return content
    return json.dumps({**defaults, **given}, indent=2).encode() + b"\n"


def _check_name(path: str) -> None:
    parts = path.split("/")
    for part in parts:
        # UCS-2 has no characters outside the BMP, nor those of a name that cannot be decoded.
        is_ucs2 = all(ord(c) < 0x10000 and not 0xD800 <= ord(c) < 0xE000 for c in part)
        is_allowed = part.isprintable() and not _JOLIET_EXCLUDED & set(part)
        if part in ("", ".", "..") or not is_ucs2 or not is_allowed:
            raise JobError(
                f"config drive: the name {path!r} cannot be on an ISO that Windows reads"
            )
        if len(part.encode()) > _NAME_MAX_BYTES:
            raise JobError(
                f"config drive: {path!r} has a name longer than {_NAME_MAX_BYTES} bytes in UTF-8"
            )
    if len(parts) > _MAX_DEPTH or len(path) * 2 > _JOLIET_MAX_PATH_BYTES:
        raise JobError(f"config drive: the path {path!r} is too long or too deep for an ISO")


def _build_iso(files: Mapping[str, bytes]) -> bytes:
    """Return an ISO of `files`, whose names have been checked.

    The plain ISO 9660 names are numbers, so they are short and never collide. Systems that know one
    of the extensions do not read them.
    """
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident=VOLUME_LABEL, joliet=3, rock_ridge="1.09")
    iso_paths = {"": ""}
    for number, (path, content) in enumerate(sorted(files.items())):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            directory, parent = "/".join(parts[:depth]), "/".join(parts[: depth - 1])
            if directory not in iso_paths:
                iso_paths[directory] = f"{iso_paths[parent]}/D{len(iso_paths):07}"
                iso.add_directory(
                    iso_paths[directory],
                    rr_name=parts[depth - 1],
                    joliet_path=f"/{directory}",
                    file_mode=_MODE_DIRECTORY,
                )
        iso.add_fp(
            BytesIO(content),
            len(content),
            f"{iso_paths['/'.join(parts[:-1])]}/F{number:07}.;1",
            rr_name=parts[-1],
            joliet_path=f"/{path}",
            file_mode=_MODE_FILE,
        )
    image = BytesIO()
    iso.write_fp(image)
    iso.close()
    return image.getvalue()
