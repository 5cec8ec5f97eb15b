"""What is built, in which order, and what of it goes to `out/`."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from osimage.build.artefact import manifest, sbom
from osimage.build.artefact.iso import make_iso, require_within_budget
from osimage.build.artefact.oci import make_oci
from osimage.build.artefact.publish import publish
from osimage.build.binaries import lock
from osimage.build.binaries.download import sha256_of
from osimage.build.binaries.elemental import fetch_elemental, pin, require_pinned
from osimage.build.binaries.nomad import fetch_nomad
from osimage.build.errors import BuildError
from osimage.build.namespace import REPO
from osimage.build.request import BuildRequest, PublishRequest, check_files
from osimage.build.stages import Stages, locked
from osimage.build.tree import debian, packages
from osimage.build.tree.osrelease import check_tag
from osimage.build.tree.package import PACKAGE
from osimage.build.tree.steps import TreeRequest, make_tree
from osimage.build.tree.tidy import size_of
from qemu_node.nodeos.release import IMAGE_ID
from qemu_node.version import VERSION


def cache_dir() -> Path:
    """Return where finished steps are kept."""
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) / "qemu-node" if xdg else REPO / ".cache") / "osimage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A root file system, and what the artefacts need to know."""

    tree: Path
    tools: Path
    elemental: Path | None
    parts: list[sbom.Part]
    """The programs in it that are no packages."""


def build(request: BuildRequest) -> list[Path]:
    """Build, and return what was made.

    Raises:
        BuildError: something that the build needs is missing or wrong; the message says what to do.
        ProcessError: a tool failed.
    """
    with Stages(cache_dir()) as stages:
        built = build_tree(stages, request)
        if request.what == "rootfs":
            return [built.tree]
        request.out.mkdir(parents=True, exist_ok=True)
        lists = _write_lists(built, request)
        if request.what == "iso":
            if built.elemental is None:
                raise BuildError("an ISO needs Elemental: leave out --without-elemental")
            iso = make_iso(
                stages, built.tools, built.tree, built.elemental, overlay=request.iso_overlay
            )
            # What somebody adds of his own is his to weigh.
            if not request.overlays and request.iso_overlay is None:
                require_within_budget(iso)
            return [give(iso, _output(request, "iso")), *lists]
        layout = make_oci(stages, built.tools, built.tree, tag=request.tag, epoch=request.epoch)
        given = give(layout, _output(request, "oci"))
        return [given, *_write_manifest(built, request, layout), *lists]


def _output(request: BuildRequest, kind: str) -> Path:
    return request.out / f"{IMAGE_ID}-{request.tag}.{kind}"


def build_tree(stages: Stages, request: BuildRequest) -> Built:
    """Get the programs, and make the root file system with them.

    Raises:
        BuildError: something that the build needs is missing or wrong; the message says what to do.
        ProcessError: a tool failed.
    """
    check_tag(request.tag)
    check_files(request)
    pinned = lock.read()
    if request.elemental is None and not request.is_plain:
        # Now, not after minutes of downloads.
        require_pinned(pinned.elemental)
    tools = debian.make_tools(stages, max_age_days=request.max_age_days)
    nomad = request.nomad or fetch_nomad(stages, tools, pinned.nomad)
    elemental = request.elemental
    if elemental is None and not request.is_plain:
        elemental = fetch_elemental(stages, tools, pinned.elemental)
    locals_ = [
        name
        for name, path in (("nomad", request.nomad), ("elemental", request.elemental))
        if path is not None and (name != "elemental" or not request.is_plain)
    ]
    key = manifest.public_key(tools, request.key) if request.key else b""
    tree = make_tree(
        stages,
        TreeRequest(
            tag=request.tag, version=VERSION, source=request.source, nomad=nomad,
            elemental=None if request.is_plain else elemental, local_binaries=tuple(locals_),
            epoch=request.epoch, record=request.record, snapshot=request.snapshot,
            overlays=request.overlays, release_key=key, max_age_days=request.max_age_days,
        ),
    )  # fmt: skip
    parts = [
        sbom.Part(
            name=name,
            version="" if name in locals_ else version,
            supplier="NOASSERTION",
            sha256=sha256_of(tree / f"usr/bin/{name}"),
            comment="a local file, no official release" if name in locals_ else "official release",
        )
        for name, version in (
            ("nomad", pinned.nomad.version),
            ("elemental", pinned.elemental.version),
        )
        if (tree / f"usr/bin/{name}").exists()
    ]
    return Built(tree=tree, tools=tools, elemental=elemental, parts=parts)


def _write_lists(built: Built, request: BuildRequest) -> list[Path]:
    """Write the list of packages, from which the image can be rebuilt, and the SPDX document."""
    installed = debian.installed(built.tree)
    record = _output(request, "packages")
    record.write_text(packages.format_record(installed))
    ours = sbom.Part(name=PACKAGE, version=installed.pop(PACKAGE), supplier="NOASSERTION")
    parts = [
        *sbom.debian_parts(installed),
        ours,
        *sbom.python_parts(sbom.python_packages(built.tree)),
        *built.parts,
    ]
    spdx = _output(request, "spdx.json")
    digest = built.tree.name.rpartition("-")[2]
    spdx.write_text(sbom.render(parts, tag=request.tag, digest=digest, epoch=request.epoch))
    return [record, spdx]


def _write_manifest(built: Built, request: BuildRequest, layout: Path) -> list[Path]:
    """Write the manifest of an image, and its signature if there is a key."""
    document = _output(request, "manifest.json")
    signature = _output(request, "manifest.json.minisig")
    signature.unlink(missing_ok=True)
    document.write_text(
        manifest.render(
            layout, tag=request.tag, epoch=request.epoch, unpacked_bytes=size_of(built.tree)
        )
    )
    if request.key is None:
        return [document]
    manifest.sign(built.tools, request.key, document, signature)
    return [document, signature]


def check(request: BuildRequest) -> list[str]:
    """Build the root file system, and return what is wrong with it, a line each.

    Raises:
        BuildError: it cannot be built.
        ProcessError: a tool failed.
    """
    from osimage.check.all import checks

    with Stages(cache_dir()) as stages:
        built = build_tree(stages, request)
        return [
            f"not {name}: {line}"
            for name, run in checks(built.tree, built.tools).items()
            for line in run()
        ]


def publish_image(request: PublishRequest) -> list[str]:
    """Push what `oci` has made, and return the names of the images.

    Raises:
        BuildError: it is not built or not signed for all tags, or the registry does not take it.
        ManifestError: the manifest is damaged.
    """
    check_tag(request.tag)
    for tag in request.more_tags:
        check_tag(tag)
    stem = request.out / f"{IMAGE_ID}-{request.tag}"
    layout, document, signature = (
        stem.with_name(f"{stem.name}.{kind}")
        for kind in ("oci", "manifest.json", "manifest.json.minisig")
    )
    for path in (layout, document, signature):
        if not path.exists():
            raise BuildError(
                f"there is no {path}",
                hint=f'build it: sudo make oci ARGS="--tag={request.tag} --key=FILE"',
            )
    with Stages(cache_dir()) as stages, tempfile.TemporaryDirectory() as scratch:
        tools = debian.make_tools(stages)
        sign_names(tools, document, signature, request)
        return publish(
            tools, layout, document, signature,
            repository=request.repository, tag=request.tag, more_tags=request.more_tags,
            scratch=Path(scratch), is_plain_http=request.is_plain_http,
        )  # fmt: skip


def sign_names(tools: Path, document: Path, signature: Path, request: PublishRequest) -> None:
    """Have the manifest signed for all tags of `request`.

    Raises:
        BuildError: it is not, and there is no key to sign it with.
        ManifestError: the manifest is damaged.
    """
    old = document.read_bytes()
    new = manifest.with_names(old, (request.tag, *request.more_tags), str(document))
    if new == old:
        return
    if request.key is None:
        raise BuildError(
            f"{document} is not signed for all of {', '.join(request.more_tags)}",
            hint="a node takes an image only under the tags that its manifest was signed for: "
            "give --key FILE",
        )
    # Never a manifest beside the signature of another one.
    signature.unlink(missing_ok=True)
    document.write_bytes(new)
    manifest.sign(tools, request.key, document, signature)


def pin_elemental() -> str:
    """Return the lines of the lock file for the Elemental CLI, as its registry has it now.

    Raises:
        BuildError: the registry is out of reach or does not have it.
    """
    with Stages(cache_dir()) as stages, tempfile.TemporaryDirectory() as scratch:
        digest, sha256 = pin(debian.make_tools(stages), lock.read().elemental, Path(scratch))
    return f'digest = "{digest}"\nsha256 = "{sha256}"'


def give(made: Path, target: Path) -> Path:
    """Put a copy of what the cache has where the user looks for it, whole or not at all.

    No links: who boots an ISO as a disk that can be written, or signs it, would change the cache.
    """
    with (
        tempfile.TemporaryDirectory(prefix=".new.", dir=target.parent) as name,
        locked(target.parent),
    ):
        scratch = Path(name)
        fresh = scratch / "made"
        if made.is_dir():
            shutil.copytree(made, fresh, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(made, fresh)
        if target.is_dir():
            target.rename(scratch / "old")
        return fresh.rename(target)
