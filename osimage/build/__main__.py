"""`python -m osimage.build`: build the node's operating system."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from osimage.build.commands import build
from osimage.build.namespace import REPO, become_root
from osimage.build.request import BuildRequest, default_epoch, default_tag
from qemu_node.errors import NodeError


def main(arguments: Sequence[str]) -> int:
    """Build what `arguments` ask for, and return the exit code."""
    options = _parse(arguments)
    try:
        become_root(arguments)
        for path in build(_request(options)):
            print(path)
    except NodeError as exc:
        sys.stderr.write(f"osimage: {exc.explain()}\n")
        return 1
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m osimage.build",
        description="Build the node's operating system. NOMAD=PATH and ELEMENTAL=PATH in the "
        "environment use local binaries instead of the pinned releases.",
    )
    parser.add_argument("what", choices=["rootfs", "iso", "oci"])
    parser.add_argument("--tag", help="IMAGE_TAG; by default version and commit")
    parser.add_argument("--out", type=Path, default=REPO / "out", help="where results go (out/)")
    parser.add_argument("--source", default="", metavar="REGISTRY/REPOSITORY:TAG",
                        help="where nodes find upgrades")  # fmt: skip
    parser.add_argument("--record", type=Path, metavar="FILE",
                        help="a .packages file: install these versions")  # fmt: skip
    parser.add_argument("--snapshot", metavar="TIME", help="packages of snapshot.debian.org")
    parser.add_argument("--overlay", type=Path, action="append", default=[], metavar="DIRECTORY",
                        help="files that are laid over the root last; may be repeated")  # fmt: skip
    parser.add_argument("--iso-overlay", type=Path, metavar="DIRECTORY",
                        help="files beside the system on the ISO")  # fmt: skip
    parser.add_argument("--without-elemental", action="store_true",
                        help="a root file system for tests, which boots without it")  # fmt: skip
    return parser.parse_args(arguments)


def _request(options: argparse.Namespace) -> BuildRequest:
    nomad, elemental = os.environ.get("NOMAD"), os.environ.get("ELEMENTAL")
    return BuildRequest(
        what=options.what, tag=options.tag or default_tag(), out=options.out.resolve(),
        source=options.source, record=options.record, snapshot=options.snapshot,
        overlays=tuple(path.resolve() for path in options.overlay),
        iso_overlay=options.iso_overlay, is_plain=options.without_elemental,
        nomad=Path(nomad) if nomad else None, elemental=Path(elemental) if elemental else None,
        epoch=default_epoch(),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
