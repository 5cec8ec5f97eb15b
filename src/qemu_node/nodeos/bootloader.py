"""The boot loader's files on the ESP, replaced so that a power cut leaves a node that boots.

Owns which files these are, and their replacement. Elemental's own `--bootloader` writes over them:
a power cut leaves half of a program or of GRUB's menu, perhaps in both places. Does not own the
firmware's entry, which stays, nor GRUB's variables (`snapshots.grubenv`).

Sources: elemental-toolkit v2.3.2, pkg/bootloader/grub.go, pkg/constants/constants.go.
"""

from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.files.atomic import host_error, write_atomic

# The firmware's fallback first: while the files are replaced that its entry leads to, it is whole.
_FALLBACK, _ENTRY = "EFI/BOOT", "EFI/ELEMENTAL"
_PROGRAMS = "usr/lib/elemental/bootloader"
_MODULES = "usr/lib/grub/x86_64-efi"
_MENU = "etc/elemental/grub.cfg"


@dataclass(frozen=True, slots=True)
class BootFile:
    """A file of the boot loader."""

    source: str
    """In the image."""
    target: str
    """On the ESP."""


def boot_files() -> list[BootFile]:
    """Return the files of the boot loader, in the order in which they are replaced: pure."""
    found = []
    for directory in (_FALLBACK, _ENTRY):
        shim = "bootx64.efi" if directory == _FALLBACK else "shimx64.efi"
        found += [
            BootFile(f"{_MODULES}/{module}", f"{directory}/x86_64-efi/{module}")
            for module in ("loopback.mod", "squash4.mod", "xzio.mod")
        ]
        found += [
            BootFile(f"{_PROGRAMS}/mmx64.efi", f"{directory}/mmx64.efi"),
            BootFile(f"{_PROGRAMS}/grubx64.efi", f"{directory}/grubx64.efi"),
            BootFile(_MENU, f"{directory}/grub.cfg"),
            BootFile(f"{_PROGRAMS}/shimx64.efi", f"{directory}/{shim}"),
        ]
    return found


def replace_boot_loader(image: Path, efi: Path) -> list[str]:
    """Give the ESP the boot loader of an image; return which files have changed. Blocks.

    Each file is the old one or the new one, whole, also after a power cut.

    Args:
        image: The image's root.
        efi: The ESP, writable.

    Raises:
        HostError: the image has no such boot loader, or the ESP cannot be written; what was
            replaced is whole, and the call may be repeated.
    """
    contents = []
    for file in boot_files():
        try:
            contents.append((file.target, (image / file.source).read_bytes()))
        except OSError as exc:
            raise host_error("read", f"/{file.source} of the image", exc) from exc
    changed = []
    for name, content in contents:
        target = efi / name
        try:
            if target.read_bytes() == content:
                continue
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise host_error("read", target, exc) from exc
        if not target.parent.is_dir():
            raise HostError(f"{target.parent} is not there", hint="boot the ISO and reinstall")
        write_atomic(target, content, is_durable=True)
        changed.append(name)
    return changed
