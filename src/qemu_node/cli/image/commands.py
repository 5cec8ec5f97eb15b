"""`qemu-node image`: manages the image cache, also beside a running driver."""

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING

import click

from qemu_node.cli.errortext import EXIT_ERROR
from qemu_node.cli.image.pull import pull
from qemu_node.cli.image.table import (
    COLUMNS,
    fields,
    removed_json,
    removed_line,
    rows,
    short_digest,
    title,
    to_json,
)
from qemu_node.cli.main import App, pass_app
from qemu_node.cli.terminal import print_fields, print_json, print_table, waiting
from qemu_node.config.node import NodeConfig
from qemu_node.errors import AS_ROOT, MissingPartError, NodeError
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.store.keptimage import KeptImage, find_image
from qemu_node.units import format_size

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_EMPTY = "no images in the cache: `qemu-node image pull URL` downloads one"
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _complete(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """Return the images whose name begins so, with their digests."""
    from click.shell_completion import CompletionItem

    with contextlib.suppress(NodeError):
        return [
            CompletionItem(title(kept), help=short_digest(kept))
            for kept in _keeper(App.of(ctx).load_config()).images()
            if title(kept).startswith(incomplete)
        ]
    return []


_names = click.argument(
    "names", metavar="IMAGE...", nargs=-1, required=True, shell_complete=_complete
)


@click.group(
    epilog="IMAGE is the URL of a source, its file name, or the beginning of the image's digest."
)
def image() -> None:
    """Manage the image cache."""


image.add_command(pull)


@image.command(
    "list",
    help="""List the images in the cache.

    Size is the file's, Disk the size that a guest sees, Used the time since a VM last ran on it. An
    image is outdated if its source has a newer one: it is removed once no VM uses it.""",
    epilog="""\b
Examples:
  qemu-node image list
  qemu-node image list --json | jq '[.[].allocated_bytes] | add'
""",
)
@_json
@pass_app
def list_(app: App, as_json: bool) -> None:
    """List the cached images."""
    images = _keeper(app.load_config()).images()
    if as_json:
        print_json([to_json(kept) for kept in images])
    elif images:
        print_table(COLUMNS, rows(images, time.time()))
    else:
        click.echo(_EMPTY, err=True)


@image.command(
    help="""Show an image of the cache.

    That is its sources, its VMs, and when it was downloaded and used. IMAGE is the URL of a source,
    its file name, or the beginning of the image's digest.""",
    epilog="""\b
Examples:
  qemu-node image show debian-13-generic-amd64.qcow2
  qemu-node image show 3f9c1a --json
""",
)
@click.argument("name", metavar="IMAGE", shell_complete=_complete)
@_json
@pass_app
def show(app: App, name: str, as_json: bool) -> None:
    """Show one cached image."""
    kept = find_image(_keeper(app.load_config()).images(), name)
    if as_json:
        print_json(to_json(kept))
    else:
        print_fields(fields(kept, time.time()))


@image.command(
    help="""Pin images: keep them in the cache.

    A pinned image stays, even if it is unused for long or space is short. The pin belongs
    to the source: a new version is pinned when it is downloaded, and the old one is removed.""",
    epilog="""\b
Examples:
  qemu-node image pin debian-13-generic-amd64.qcow2
""",
)
@_names
@_json
@pass_app
def pin(app: App, names: tuple[str, ...], as_json: bool) -> None:
    """Pin images."""
    _set_pinned(app, names, is_pinned=True, as_json=as_json)


@image.command(
    help="""Unpin images.

    They are removed when they are outdated, unused for long, or space is short.""",
    epilog="""\b
Examples:
  qemu-node image unpin debian-13-generic-amd64.qcow2
""",
)
@_names
@_json
@pass_app
def unpin(app: App, names: tuple[str, ...], as_json: bool) -> None:
    """Unpin images."""
    _set_pinned(app, names, is_pinned=False, as_json=as_json)


@image.command(
    help="""Remove images from the cache.

    Refused for an image that VMs run on, or that is pinned or prefetched, except with --force. VMs
    that run keep their image in any case; the space is freed when the last of them ends.""",
    epilog="""\b
Examples:
  qemu-node image rm debian-12.qcow2
  qemu-node image rm --force 3f9c1a
""",
)
@_names
@click.option("--force", is_flag=True, help="Remove what is in use, pinned or prefetched as well.")
@_json
@pass_app
def rm(app: App, names: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Remove images."""
    keeper = _keeper(app.load_config(), for_change=True)
    chosen = _chosen(keeper, names)
    for kept in chosen:
        keeper.remove(kept, force=force)
        if not as_json:
            click.echo(f"removed {title(kept)}  {short_digest(kept)}")
    if as_json:
        print_json([to_json(kept) for kept in chosen])


@image.command(
    help="""Remove what the driver would remove.

    These are outdated images that no VM uses, images unused for long, the least recently used ones
    while space is short, and what broken downloads left. The driver does this every minute;
    `images` in node.toml says when.""",
    epilog="""\b
Examples:
  qemu-node image gc --dry-run
  qemu-node image gc --all
""",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Remove every image that is not used, pinned or prefetched.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@_json
@pass_app
def gc(app: App, everything: bool, dry_run: bool, as_json: bool) -> None:
    """Remove images."""
    config = app.load_config()
    keeper = _keeper(config, for_change=not dry_run)
    if not config.paths.images_dir.exists():
        removed = []
    elif dry_run:
        removed = keeper.plan(everything=everything)
    else:
        removed = keeper.sweep(everything=everything)
    if as_json:
        print_json([removed_json(one) for one in removed])
        return
    for one in removed:
        click.echo(removed_line(one))
    size = format_size(sum(one.image.blob.allocated_bytes for one in removed))
    click.echo(f"{'would free' if dry_run else 'freed'} {size}", err=True)


@image.command(
    help="""Compare images with their digests.

    All images by default; qcow2 images also with `qemu-img check`. Exits with status 1 if one is
    damaged. Nothing is removed: `image rm --force` does that, and the next start downloads
    the image again.""",
    epilog="""\b
Examples:
  qemu-node image verify
  qemu-node image verify debian-13-generic-amd64.qcow2
""",
)
@click.argument("names", metavar="[IMAGE]...", nargs=-1, shell_complete=_complete)
@_json
@pass_app
@click.pass_context
def verify(ctx: click.Context, app: App, names: tuple[str, ...], as_json: bool) -> None:
    """Verify images."""
    keeper = _keeper(app.load_config())
    chosen = _chosen(keeper, names) if names else keeper.images()
    if not chosen and not as_json:
        click.echo(_EMPTY, err=True)
    problems = asyncio.run(_verify(keeper, chosen, is_shown=not as_json))
    if as_json:
        print_json(
            [
                to_json(kept) | {"problem": problem}
                for kept, problem in zip(chosen, problems, strict=True)
            ]
        )
    ctx.exit(EXIT_ERROR if any(problems) else 0)


async def _verify(
    keeper: ImageKeeper, chosen: list[KeptImage], *, is_shown: bool
) -> list[str | None]:
    problems = []
    for kept in chosen:
        name = f"{title(kept)}  {short_digest(kept)}"
        with waiting(name) if is_shown else contextlib.nullcontext():
            problem, note = await _problem_of(keeper, kept)
        problems.append(problem)
        if is_shown:
            click.echo(f"{name}  {problem or note}")
    return problems


async def _problem_of(keeper: ImageKeeper, kept: KeptImage) -> tuple[str | None, str]:
    """Return what is wrong with an image, and what is said if nothing is."""
    try:
        return await keeper.verify(kept), "ok"
    except MissingPartError as exc:
        return None, f"ok, its structure unchecked: {exc.explain()}"


def _set_pinned(app: App, names: tuple[str, ...], *, is_pinned: bool, as_json: bool) -> None:
    keeper = _keeper(app.load_config(), for_change=True)
    chosen = _chosen(keeper, names)
    for kept in chosen:
        keeper.pin(kept, is_pinned=is_pinned)
        if not as_json:
            click.echo(f"{'pinned' if is_pinned else 'unpinned'} {title(kept)}")
    if as_json:
        paths = {kept.blob.path for kept in chosen}
        print_json([to_json(kept) for kept in keeper.images() if kept.blob.path in paths])


def _chosen(keeper: ImageKeeper, names: tuple[str, ...]) -> list[KeptImage]:
    """Return the images that `names` mean, each once, before anything is done to one of them."""
    images = keeper.images()
    chosen = {kept.blob.path: kept for kept in (find_image(images, name) for name in names)}
    return list(chosen.values())


def _keeper(config: NodeConfig, *, for_change: bool = False) -> ImageKeeper:
    """Return the keeper of the cache."""
    images_dir = config.paths.images_dir
    needed = os.R_OK | os.X_OK | (os.W_OK if for_change else 0)
    for directory in (images_dir, images_dir / "sources", images_dir / "blobs"):
        try:
            is_closed = directory.exists() and not os.access(directory, needed)
        except PermissionError:  # one above it is closed
            is_closed = True
        if is_closed:
            verb = "changed" if for_change else "read"
            raise MissingPartError(f"{directory} may not be {verb}", hint=AS_ROOT)
    return ImageKeeper(
        images_dir, config.paths.vm_data_dir, config.images, reserve=config.disk.reserved
    )
