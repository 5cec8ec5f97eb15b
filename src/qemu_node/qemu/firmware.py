"""UEFI firmware of the host, found through QEMU's firmware descriptors, and a VM's varstore.

Owns reading descriptors (docs/interop/firmware.json of QEMU) and choosing one for a mode. Does not
own SeaBIOS, which QEMU brings, nor how flash is wired up (`devices.firmware`).

Descriptors are the operator's. One that is malformed or of a newer schema is skipped, with the
reason in the log.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from qemu_node.errors import HostError, MissingPartError
from qemu_node.host.files.atomic import write_atomic
from qemu_node.qemu.spec import FirmwareMode
from qemu_node.text import DECODE_ERRORS

log = logging.getLogger(__name__)

_ARCHITECTURE = "x86_64"
_MACHINE = "pc-q35-10.0"  # any q35: descriptors name them by patterns such as "pc-q35-*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """One UEFI firmware of the host: its code, and the varstore that each VM gets a copy of."""

    code: Path
    varstore_template: Path
    is_secure: bool
    """It keeps its varstore behind SMM."""
    descriptor: Path


class _File(msgspec.Struct, frozen=True):
    filename: str
    format: str


class _Mapping(msgspec.Struct, frozen=True, rename="kebab"):
    device: str
    executable: _File | None = None
    nvram_template: _File | None = None
    mode: str = "split"


class _Target(msgspec.Struct, frozen=True):
    architecture: str
    machines: list[str]


class _Descriptor(msgspec.Struct, frozen=True, rename="kebab"):
    """What we read of a FirmwareDescriptor; unknown keys are ignored."""

    interface_types: list[str]
    mapping: _Mapping
    targets: list[_Target]
    features: list[str] = []


def find_firmware(mode: FirmwareMode, dirs: Sequence[Path]) -> Firmware | None:
    """Return the firmware to use for `mode`; None for `bios`, which needs none.

    Descriptors are tried in the order of their file names; of two with one name the one in the
    earlier directory counts, and an empty file there hides the later (firmware.json, "Management
    software").

    Raises:
        MissingPartError: no descriptor fits; the log says why each was skipped.
    """
    if mode is FirmwareMode.BIOS:
        return None
    skipped: list[str] = []
    for path in _descriptors(dirs):
        found = _read(path, mode)
        if isinstance(found, Firmware):
            return found
        log.debug("firmware skipped", extra={"descriptor": str(path), "reason": found})
        skipped.append(f"{path.name}: {found}")
    where = ", ".join(str(directory) for directory in dirs) or "no directory"
    detail = f" ({'; '.join(skipped)})" if skipped else ""
    raise MissingPartError(
        f"no UEFI firmware for {mode} in {where}{detail}",
        hint="apt install ovmf",
    )


def ensure_varstore(template: Path, dest: Path, owner: tuple[int, int] | None) -> None:
    """Make `dest` a VM's own varstore, a copy of `template`; one that exists already is kept.

    The copy is `owner`'s alone and appears whole or not at all.

    Raises:
        HostError: it could not be written, e.g. the disk is full; nothing is left.
    """
    if dest.exists():
        return
    try:
        content = template.read_bytes()
    except OSError as exc:
        raise HostError(f"cannot read varstore template {template}: {exc.strerror}") from exc
    write_atomic(dest, content, mode=0o600, owner=owner)


def _descriptors(dirs: Sequence[Path]) -> list[Path]:
    """Return the descriptors that count, in the order in which they are to be tried."""
    by_name: dict[str, Path] = {}
    for directory in dirs:
        try:
            entries = sorted(directory.iterdir())
        except OSError as exc:
            log.debug(
                "no firmware directory", extra={"path": str(directory), "reason": exc.strerror}
            )
            continue
        for path in entries:
            if path.suffix == ".json":
                by_name.setdefault(path.name, path)
    return [by_name[name] for name in sorted(by_name)]


def _read(path: Path, mode: FirmwareMode) -> Firmware | str:
    """Return the firmware that `path` describes, or why it does not serve."""
    try:
        raw = path.read_bytes()
        if not raw.strip():
            return "empty: it hides a descriptor of the same name"
        descriptor = msgspec.json.decode(raw, type=_Descriptor)
    except OSError as exc:
        return f"cannot be read: {exc.strerror}"
    except DECODE_ERRORS as exc:
        return f"malformed: {exc}"
    reason = _why_unfit(descriptor, mode)
    if reason is not None:
        return reason
    return _files(path, descriptor)


def _why_unfit(descriptor: _Descriptor, mode: FirmwareMode) -> str | None:
    """Return why a descriptor does not suit `mode` on our machine type; None if it does."""
    features = set(descriptor.features)
    if "uefi" not in descriptor.interface_types:
        return "no UEFI"
    if not any(
        target.architecture == _ARCHITECTURE
        and any(fnmatchcase(_MACHINE, pattern) for pattern in target.machines)
        for target in descriptor.targets
    ):
        return f"not for q35 on {_ARCHITECTURE}"
    if mode is FirmwareMode.SECURE_BOOT:
        missing = {"secure-boot", "enrolled-keys", "requires-smm"} - features
        return f"lacks {', '.join(sorted(missing))}" if missing else None
    unwanted = {"enrolled-keys", "requires-smm"} & features
    return f"has {', '.join(sorted(unwanted))}" if unwanted else None


def _files(path: Path, descriptor: _Descriptor) -> Firmware | str:
    mapping = descriptor.mapping
    if mapping.device != "flash" or mapping.mode != "split":
        return f"{mapping.device} in mode {mapping.mode}, not flash in two parts"
    if mapping.executable is None or mapping.nvram_template is None:
        return "names no executable or no nvram-template"
    for file in (mapping.executable, mapping.nvram_template):
        if file.format != "raw":
            return f"{file.filename} is {file.format}, not raw"
        if not file.filename.startswith("/"):
            return f"{file.filename!r} is no absolute path"
        if "\0" in file.filename or not Path(file.filename).is_file():
            return f"{file.filename!r} does not exist"
    return Firmware(
        code=Path(mapping.executable.filename),
        varstore_template=Path(mapping.nvram_template.filename),
        is_secure="requires-smm" in descriptor.features,
        descriptor=path,
    )
