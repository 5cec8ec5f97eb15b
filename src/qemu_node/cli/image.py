"""`qemu-node image`: the image cache, looked at. Nothing here changes it."""

import os
import time
from pathlib import Path

import click

from qemu_node.cli.main import App, pass_app
from qemu_node.cli.terminal import (
    Cell,
    Column,
    Row,
    print_fields,
    print_json,
    print_table,
    short_size,
    short_time,
)
from qemu_node.config import NodeConfig
from qemu_node.errors import ImageError, MissingPartError
from qemu_node.images.cache import ImageCache, StoredImage
from qemu_node.units import format_size

_COLUMNS = (
    Column("Image"),
    Column("Digest"),
    Column("Format", droppable=2),
    Column("Size", is_number=True),
    Column("Disk", is_number=True),
    Column("Age", is_number=True),
    Column("Origin", droppable=1),
)
_DIGEST_SHOWN_CHARS = 12
_DIGEST_MIN_CHARS = 4

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def image() -> None:
    """Look at the image cache."""


@image.command(
    "list",
    help="""List the images that were downloaded.

    Size is what the cache holds, disk what a guest sees, age the time since the download. Passwords
    in origins are not kept.""",
    epilog="""\b
Examples:
  qemu-node image list
  qemu-node image list --json | jq '[.[].size_bytes] | add'
""",
)
@_json
@pass_app
def list_(app: App, as_json: bool) -> None:
    """List the cached images."""
    images = _stored(app.load_config())
    if as_json:
        print_json([to_json(stored) for stored in images])
    elif images:
        print_table(_COLUMNS, rows(images, time.time()))
    else:
        click.echo("no images in the cache", err=True)


@image.command(
    help="""Show an image of the cache.

    IMAGE is its origin, its file name, or the beginning of its digest.""",
    epilog="""\b
Examples:
  qemu-node image show debian-13-generic-amd64.qcow2
  qemu-node image show 3f9c1a --json
""",
)
@click.argument("name", metavar="IMAGE")
@_json
@pass_app
def show(app: App, name: str, as_json: bool) -> None:
    """Show one cached image."""
    stored = find_image(_stored(app.load_config()), name)
    if as_json:
        print_json(to_json(stored))
        return
    print_fields(
        [
            ("image", file_name(stored)),
            ("origin", stored.origin),
            ("digest", stored.digest),
            ("format", stored.format.value),
            ("size", f"{format_size(stored.size_bytes)} in the cache"),
            ("disk", f"{format_size(stored.virtual_size_bytes)} for a guest"),
            ("fetched", f"{short_time(time.time() - stored.fetched_at)} ago"),
            ("file", str(stored.path)),
        ]
    )


def _stored(config: NodeConfig) -> list[StoredImage]:
    """Return what the cache holds.

    Raises:
        MissingPartError: this user may not look into it.
    """
    from qemu_node.host.tasks import TaskOwner

    directory = config.paths.images_dir
    _check_readable(directory)
    return ImageCache(directory, config.images, TaskOwner("image")).list()


def _check_readable(images_dir: Path) -> None:
    """Raise where the cache would look empty to us only because we may not read it."""
    for directory in (images_dir, images_dir / "sources"):
        if directory.exists() and not os.access(directory, os.R_OK | os.X_OK):
            raise MissingPartError(f"{directory} may not be read", hint="run this as root")


def find_image(images: list[StoredImage], name: str) -> StoredImage:
    """Return the image that `name` means: pure.

    Raises:
        ImageError: none, or several; the message says which.
    """
    digest = name.removeprefix("sha256:").lower()
    for matches in (
        [stored for stored in images if stored.origin == name],
        [stored for stored in images if file_name(stored) == name],
        [
            stored
            for stored in images
            if len(digest) >= _DIGEST_MIN_CHARS
            and stored.digest.removeprefix("sha256:").startswith(digest)
        ],
    ):
        # The same bytes from several sources are one file.
        if len({stored.digest for stored in matches}) > 1:
            choices = ", ".join(stored.origin for stored in matches)
            raise ImageError(f"{name!r} means more than one image: {choices}")
        if matches:
            return matches[0]
    raise ImageError(
        f"no image {name!r} in the cache",
        hint="`qemu-node image list` shows them" if images else "it is empty",
    )


def file_name(stored: StoredImage) -> str:
    """Return the last part of where an image came from: pure."""
    return stored.origin.partition("?")[0].rstrip("/").rpartition("/")[2] or stored.origin


def rows(images: list[StoredImage], now: float) -> list[Row]:
    """Return the table's rows at the Unix time `now`: pure."""
    return [
        [
            Cell(file_name(stored)),
            Cell(stored.digest.removeprefix("sha256:")[:_DIGEST_SHOWN_CHARS]),
            Cell(stored.format.value),
            Cell(short_size(stored.size_bytes)),
            Cell(short_size(stored.virtual_size_bytes)),
            Cell(short_time(max(now - stored.fetched_at, 0.0))),
            Cell(stored.origin),
        ]
        for stored in images
    ]


def to_json(stored: StoredImage) -> dict[str, object]:
    """Return what --json prints of an image: pure."""
    return {
        "origin": stored.origin,
        "digest": stored.digest,
        "format": stored.format,
        "size_bytes": stored.size_bytes,
        "virtual_size_bytes": stored.virtual_size_bytes,
        "fetched_at": stored.fetched_at,
        "path": str(stored.path),
    }
