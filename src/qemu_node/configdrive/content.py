"""What a config drive holds: the job's own files, and the meta data that every guest needs.

Owns a meta_data.json that has at least the VM's uuid, hostname and name. The layout is that of
OpenStack's `config-2` drive, which cloud-init and cloudbase-init read; Windows setup finds an
unattend.xml at the root of any CD. Does not own where the job's files come from (`tasktree`), nor
the VM's name.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from qemu_node.errors import JobError

SOURCE = "local/config-drive"
"""Where the job's files are in the task's directory, into which Nomad renders its templates."""

_META_DATA = "meta_data.json"

HOSTNAME_MAX_CHARS = 63  # one label, RFC 1123 2.1
_HOSTNAME_FALLBACK = "vm"
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as inet_aton(3) reads one


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDrive:
    """The files of a drive by path, and the host name that the guest will read from them."""

    files: dict[str, bytes]
    hostname: str


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
        raise JobError(f"{SOURCE}/{latest}: hostname is not a string")
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


def _complete_meta_data(path: str, content: bytes | None, defaults: Mapping[str, str]) -> bytes:
    """Return `content` with the keys that it lacks; unchanged if it lacks none."""
    given: object = {}
    if content is not None:
        try:
            given = json.loads(content)
        except json.JSONDecodeError as exc:
            raise JobError(
                f"{SOURCE}/{path} is not JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}"
            ) from exc
        except (ValueError, RecursionError) as exc:  # Not UTF-8, too large a number, too deep.
            raise JobError(f"{SOURCE}/{path} is not JSON: {exc}") from exc
    if not isinstance(given, dict):
        raise JobError(f"{SOURCE}/{path} is not a JSON object")
    if content is not None and defaults.keys() <= given.keys():
        return content
    return json.dumps({**defaults, **given}, indent=2).encode() + b"\n"
