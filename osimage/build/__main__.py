"""`python -m osimage.build`: build the node's operating system.

Exit status 0: done, and what was made is printed; 1: it failed; 2: wrong usage; 130: it was ended.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from osimage.build.commands import build, check, pin_elemental, publish_image
from osimage.build.namespace import REPO, become_root
from osimage.build.request import (
    BuildRequest,
    PublishRequest,
    default_epoch,
    default_tag,
    local_program,
)
from osimage.build.stages import MAX_AGE_DAYS
from qemu_node.errors import NodeError


def main(arguments: Sequence[str]) -> int:
    """Do what `arguments` ask for, and return the exit status."""
    options = _parser().parse_args(arguments)
    # Modes of an image must not depend on who builds it.
    os.umask(0o022)
    try:
        become_root(arguments)
        if options.what == "pin":
            print(pin_elemental())
        elif options.what == "check":
            if lines := check(_request(options)):
                print(*lines, sep="\n")
                return 1
        elif options.what == "publish":
            print(*publish_image(_publish_request(options)), sep="\n")
        else:
            print(*build(_request(options)), sep="\n")
    except NodeError as exc:
        sys.stderr.write(f"osimage: {exc.explain()}\n")
        return 1
    except OSError as exc:
        # A file of the request, the cache or the results: it names its path.
        sys.stderr.write(f"osimage: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("osimage: ended before it was done\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m osimage.build",
        description="Build the node's operating system. NOMAD=PATH and ELEMENTAL=PATH in the "
        "environment use local programs instead of the pinned releases; the image says so.",
    )
    commands = parser.add_subparsers(dest="what", required=True, metavar="COMMAND")
    for name, about in (
        ("rootfs", "the root file system, in the cache"),
        ("check", "what is wrong with the root file system"),
        ("iso", "the live system and installer"),
        ("oci", "the image for upgrades"),
    ):
        _add_build_options(commands.add_parser(name, help=about, description=about))
    commands.add_parser("pin", help="print digest and checksum of the Elemental CLI for the lock")
    pushed = commands.add_parser("publish", help="push an image and its manifest to a registry")
    _add_out(pushed)
    pushed.add_argument("--to", required=True, metavar="REGISTRY/REPOSITORY", help="where to")
    pushed.add_argument("--also", action="append", default=[], metavar="TAG",
                        help="a further tag, such as stable; may be repeated")  # fmt: skip
    pushed.add_argument("--key", type=Path, metavar="FILE",
                        help="secret key of minisign, which signs the further tags")  # fmt: skip
    pushed.add_argument("--plain-http", action="store_true", help="the registry has no TLS")
    return parser


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tag", help="the image's tag; by default version and commit")
    parser.add_argument("--out", type=Path, default=REPO / "out", metavar="DIRECTORY",
                        help="where results go (out/)")  # fmt: skip


def _add_build_options(parser: argparse.ArgumentParser) -> None:
    _add_out(parser)
    parser.add_argument("--source", default="", metavar="REGISTRY/REPOSITORY:TAG",
                        help="where nodes find upgrades")  # fmt: skip
    parser.add_argument("--key", type=Path, metavar="FILE",
                        help="secret key of minisign, which signs the manifest")  # fmt: skip
    parser.add_argument("--record", type=Path, metavar="FILE",
                        help="a .packages file: install these versions")  # fmt: skip
    parser.add_argument("--snapshot", metavar="TIME",
                        help="packages of snapshot.debian.org, as 20260901T000000Z")  # fmt: skip
    parser.add_argument("--max-age", type=_days, default=MAX_AGE_DAYS, metavar="DAYS",
                        help="how old kept Debian packages may be; 0: of today "
                        f"({MAX_AGE_DAYS})")  # fmt: skip
    parser.add_argument("--overlay", type=Path, action="append", default=[], metavar="DIRECTORY",
                        help="files that are laid over the root last; may be repeated")  # fmt: skip
    parser.add_argument("--iso-overlay", type=Path, metavar="DIRECTORY",
                        help="files beside the system on the ISO")  # fmt: skip
    parser.add_argument("--without-elemental", action="store_true",
                        help="a root file system for tests, which boots without it")  # fmt: skip


def _days(text: str) -> int:
    days = int(text)
    if days < 0:
        raise ValueError(text)
    return days


def _request(options: argparse.Namespace) -> BuildRequest:
    return BuildRequest(
        what=options.what, tag=options.tag or default_tag(), out=options.out.resolve(),
        source=options.source, key=options.key, record=options.record, snapshot=options.snapshot,
        overlays=tuple(path.resolve() for path in options.overlay),
        iso_overlay=options.iso_overlay, is_plain=options.without_elemental,
        nomad=local_program("NOMAD"), elemental=local_program("ELEMENTAL"),
        epoch=default_epoch(), max_age_days=options.max_age,
    )  # fmt: skip


def _publish_request(options: argparse.Namespace) -> PublishRequest:
    return PublishRequest(
        tag=options.tag or default_tag(), out=options.out.resolve(), repository=options.to,
        more_tags=tuple(options.also), key=options.key, is_plain_http=options.plain_http,
    )  # fmt: skip


if __name__ == "__main__":
    # As Ctrl-C: what a step has started ends, and what it has made goes. Unless the signal is to be
    # ignored, as under nohup.
    for _number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(_number) is signal.SIG_DFL:
            signal.signal(_number, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
