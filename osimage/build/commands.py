"""What is built, in which order, and what of it goes to `out/`."""

import os
import shutil
from pathlib import Path

from osimage.build.artefact.iso import make_iso
from osimage.build.artefact.oci import make_oci
from osimage.build.errors import BuildError
from osimage.build.namespace import REPO
from osimage.build.request import BuildRequest
from osimage.build.stages import Stages
from osimage.build.tree import debian, packages
from osimage.build.tree.osrelease import IMAGE_ID, check_tag
from osimage.build.tree.steps import TreeRequest, make_tree
from qemu_node.version import VERSION


def cache_dir() -> Path:
    """Return where finished steps are kept."""
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) / "qemu-node" if xdg else REPO / ".cache") / "osimage"


def build(request: BuildRequest) -> list[Path]:
    """Build, and return what was made.

    Raises:
        BuildError: something that the build needs is missing or wrong; the message says what to do.
        ProcessError: a tool failed.
    """
    check_tag(request.tag)
    if request.nomad is None or (request.elemental is None and not request.is_plain):
        raise BuildError("not yet: give NOMAD=PATH and ELEMENTAL=PATH")
    with Stages(cache_dir()) as stages:
        tree = make_tree(
            stages,
            TreeRequest(
                tag=request.tag, version=VERSION, source=request.source,
                nomad=request.nomad, elemental=None if request.is_plain else request.elemental,
                local_binaries=("nomad", "elemental"), epoch=request.epoch,
                record=request.record, snapshot=request.snapshot, overlays=request.overlays,
            ),
        )  # fmt: skip
        if request.what == "rootfs":
            return [tree]
        request.out.mkdir(parents=True, exist_ok=True)
        tools = debian.make_tools(stages)
        stem = request.out / f"{IMAGE_ID}-{request.tag}"
        lists = stem.with_name(f"{stem.name}.packages")
        lists.write_text(packages.format_record(debian.installed(tree)))
        if request.what == "iso":
            assert request.elemental is not None
            made = make_iso(stages, tools, tree, request.elemental, overlay=request.iso_overlay)
            return [_give(made, stem.with_name(f"{stem.name}.iso")), lists]
        made = make_oci(stages, tools, tree, tag=request.tag, epoch=request.epoch)
        return [_give(made, stem.with_name(f"{stem.name}.oci")), lists]


def _give(made: Path, target: Path) -> Path:
    """Put what the cache has where the user looks for it: as links, else as copies."""
    fresh = target.with_name(f".{target.name}.new")
    for old in (fresh, target):
        if old.is_dir():
            shutil.rmtree(old)
    if made.is_dir():
        shutil.copytree(made, fresh, copy_function=_link)
    else:
        fresh.unlink(missing_ok=True)
        _link(str(made), str(fresh))
    return fresh.rename(target)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target
