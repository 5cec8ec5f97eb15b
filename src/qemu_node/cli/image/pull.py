"""`qemu-node image pull`: a download into the cache, with its progress.

Owns the command and how progress looks. Does not own the download (`images.cache`): the driver and
the command share one if both want the same image.
"""

import asyncio
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qemu_node.cli.image.table import title, to_json
from qemu_node.cli.main import App, pass_app
from qemu_node.cli.terminal import print_json
from qemu_node.errors import AS_ROOT, NodeError
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.store.keptimage import KeptImage
from qemu_node.units import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Generator

    from qemu_node.config.node import NodeConfig
    from qemu_node.images.cache import OnProgress
    from qemu_node.images.download.pull import Pulled

_LINE_PCT = 10
_LINE_BYTES = 100 * MIB


@click.command(
    help="""Download the image at URL, or bring it up to date.

    Ctrl-C keeps what was downloaded; the same command then continues, if the source allows that.
    If the driver downloads the same image, the command waits for that.""",
    epilog="""\b
Examples:
  qemu-node image pull https://cloud.example/debian-13.qcow2
  qemu-node image pull --pin --checksum https://cloud.example/SHA256SUMS \\
      https://cloud.example/debian-13.qcow2
""",
)
@click.argument("url")
@click.option("--checksum", help='"sha256:…", "sha512:…" or the URL of a SUMS file.')
@click.option("--pin", is_flag=True, help="Keep it until it is unpinned.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
def pull(app: App, url: str, checksum: str | None, pin: bool, as_json: bool) -> None:
    """Download an image."""
    config = app.load_config()
    keeper = ImageKeeper(
        config.paths.images_dir,
        config.paths.vm_data_dir,
        config.images,
        reserve=config.disk.reserved,
    )
    try:
        pulled = asyncio.run(_pull(config, keeper, url, checksum))
    except NodeError as exc:
        if exc.hint is None and not _may_write(config.paths.images_dir):
            exc.hint = config.paths.data_advice
            if os.geteuid() != 0:
                exc.hint += f"; for the cache of root's driver, {AS_ROOT}"
        raise
    except KeyboardInterrupt:
        # click ends the line.
        click.echo("interrupted; repeat the command to go on", nl=False, err=True)
        raise
    image = _kept(keeper, pulled)
    keeper.touch(image)
    if pin:
        keeper.pin(image, is_pinned=True)
        image = _kept(keeper, pulled)
    if as_json:
        print_json(to_json(image) | {"note": pulled.note})
        return
    if pulled.note is not None:
        click.echo(f"note: {pulled.note}", err=True)
    click.echo(f"{title(image)}  {image.digest}  {format_size(image.blob.size_bytes)}")


def _may_write(directory: Path) -> bool:
    """Tell whether this user may make or change what is in `directory`."""
    above = (directory, *directory.parents)
    # Not Path.exists, which raises below a directory that is closed.
    existing = next((path for path in above if os.access(path, os.F_OK)), directory)
    return os.access(existing, os.W_OK | os.X_OK)


async def _pull(
    config: "NodeConfig", keeper: ImageKeeper, url: str, checksum: str | None
) -> "Pulled":
    from qemu_node.host.concurrency.tasks import TaskOwner
    from qemu_node.images.cache import ImageCache

    async with TaskOwner("pull") as tasks:
        cache = ImageCache(
            config.paths.images_dir,
            config.images,
            tasks,
            reserve=config.disk.reserved,
            make_room=keeper.make_room,
        )
        with _progress() as on_progress:
            return await cache.pull(url, checksum=checksum, on_progress=on_progress)


def _kept(keeper: ImageKeeper, pulled: "Pulled") -> KeptImage:
    """Return the image that was pulled."""
    from qemu_node.images.store.keptimage import find_image

    return find_image(keeper.images(), pulled.version.sha256)


@contextmanager
def _progress() -> "Generator[OnProgress]":
    """Show a download's progress on stderr: a bar on a terminal, elsewhere a line now and then."""
    if not sys.stderr.isatty():
        yield _ProgressLines().show
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    with Progress(
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr, highlight=False),
        transient=True,
    ) as progress:
        task = progress.add_task("download", total=None)
        yield lambda done_bytes, total_bytes: progress.update(
            task, completed=done_bytes, total=total_bytes
        )


class _ProgressLines:
    def __init__(self) -> None:
        self._mark = 0

    def show(self, done_bytes: int, total_bytes: int | None) -> None:
        mark = mark_of(done_bytes, total_bytes)
        if mark > self._mark:
            self._mark = mark
            click.echo(progress_line(done_bytes, total_bytes), err=True)


def mark_of(done_bytes: int, total_bytes: int | None) -> int:
    """Return a number that grows when it is time for another line: pure."""
    if total_bytes:
        return done_bytes * 100 // total_bytes // _LINE_PCT
    return done_bytes // _LINE_BYTES


def progress_line(done_bytes: int, total_bytes: int | None) -> str:
    """Return a download's progress in words: pure."""
    if total_bytes:
        return f"{done_bytes * 100 // total_bytes} % of {format_size(total_bytes)}"
    return f"{format_size(done_bytes)}"
