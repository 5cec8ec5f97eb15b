"""The root file system: the steps in their order.

Owns what follows what and what makes a step old. Each step is elsewhere in this room.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from osimage.build.namespace import REPO, run_in
from osimage.build.stages import MAX_AGE_DAYS, Stages, digest_of, say
from osimage.build.tree import debian, packages, units
from osimage.build.tree.initrd import copy_root, make_with_initrd
from osimage.build.tree.lay import lay, resolve
from osimage.build.tree.osrelease import extend, image_lines
from osimage.build.tree.package import PACKAGE, install_package, make_package
from osimage.build.tree.tidy import clamp_times, tidy
from qemu_node.nodeos.paths import NodePaths

FILES = REPO / "osimage" / "files"
PACKAGES = REPO / "osimage" / "packages"

# What Elemental looks for, and where Debian has it, signed.
_BOOT_LOADERS = {
    "shimx64.efi": "usr/lib/shim/shimx64.efi.signed",
    "mmx64.efi": "usr/lib/shim/mmx64.efi.signed",
    "grubx64.efi": "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
}
# Mount points: the root is read only.
_DIRECTORIES = {"data": 0o755, "oem": 0o700}
_KEPT_EPOCH = 1767225600
"""The time of what earlier steps have made: before every commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRequest:
    """What a root file system is made of."""

    tag: str
    version: str
    source: str
    """Where nodes find upgrades, as registry/repository:tag; may be empty."""
    nomad: Path
    elemental: Path | None
    """None: a tree that boots without it, for tests."""
    local_binaries: tuple[str, ...]
    epoch: int
    """The time of the newest file, in seconds since 1970."""
    record: Path | None = None
    snapshot: str | None = None
    max_age_days: int = MAX_AGE_DAYS
    """How old Debian packages may be that an earlier build has installed."""
    overlays: tuple[Path, ...] = ()
    """Directories that are laid over the root last."""
    release_key: bytes = b""
    """What nodes verify upgrades with; nothing: the operator must name a key of his own."""


def make_tree(stages: Stages, request: TreeRequest) -> Path:
    """Return the root file system for `request`."""
    names = packages.parse_list(PACKAGES.read_text())
    record = packages.parse_record(request.record.read_text()) if request.record else None
    if record is not None:
        # Ours comes later, from this checkout: no mirror has it.
        record.pop(PACKAGE, None)
    base = debian.make_base(
        stages, names, record=record, snapshot=request.snapshot, max_age_days=request.max_age_days
    )
    package = make_package()
    # The initrd does not change with each commit.
    with_initrd = make_with_initrd(stages, base, FILES, request.elemental, epoch=0)
    lines = image_lines(
        tag=request.tag, version=request.version, source=request.source,
        local_binaries=request.local_binaries, epoch=request.epoch,
    )  # fmt: skip
    here = Path(__file__).parent

    def digest() -> str:
        return digest_of(
            ["tree", with_initrd.name, repr(sorted(lines.items())), request.release_key.decode()],
            files=[package, FILES, *request.overlays, request.nomad, *sorted(here.glob("*.py"))],
        )

    def make(target: Path, scratch: Path) -> None:
        del scratch
        copy_root(with_initrd, target)
        # They may have been made before the commit or after it.
        clamp_times(target, min(_KEPT_EPOCH, request.epoch))
        install_package(package, target)
        shutil.copyfile(request.nomad, target / "usr/bin/nomad")
        (target / "usr/bin/nomad").chmod(0o755)
        for files in (FILES, *request.overlays):
            lay(files, target)
        if request.release_key:
            _write(target, NodePaths(Path("/")).release_key, request.release_key)
        _finish(target, lines)
        tidy(target, request.epoch)

    tree = stages.get(
        "tree", digest(), make, look_again=digest,
        about="finishes the root file system (half a minute)",
    )  # fmt: skip
    say(f"root file system: {tree}")
    return tree


def _write(root: Path, name: PurePosixPath | Path, content: bytes) -> None:
    path = resolve(root, PurePosixPath(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)


def _finish(root: Path, lines: dict[str, str]) -> None:
    """Do what is neither a package nor a file of ours."""

    def in_root(name: str) -> Path:
        return resolve(root, PurePosixPath(name))

    for name, source in _BOOT_LOADERS.items():
        loader = PurePosixPath("usr/lib/elemental/bootloader") / name
        _write(root, loader, in_root(source).read_bytes())
    for name, mode in _DIRECTORIES.items():
        directory = in_root(name)
        directory.mkdir(exist_ok=True)
        directory.chmod(mode)
    release = in_root("usr/lib/os-release")
    release.write_text(extend(release.read_text(), lines))
    presets = units.read_presets(root)
    # systemctl says nothing of a unit that is missing, and does nothing of the rest.
    absent = units.missing(root, presets)
    if absent:
        say(f"the image has no {', '.join(absent)}, which its preset file enables")
    for argv in units.commands([item for item in presets if item[1] not in absent]):
        run_in(root, argv)
