"""The files that a VM's QEMU opens: image, overlay, UEFI variables, config drive.

Owns the steps of a start that make them, and waiting for the image. Does not own what is in them
(`images`, `qemu.firmware`, `configdrive`).
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from qemu_node.configdrive.content import ConfigDrive, complete
from qemu_node.configdrive.iso import write_iso
from qemu_node.configdrive.tasktree import read_config_drive
from qemu_node.errors import HostError
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.images.cache import ImageCache
from qemu_node.images.errors import ImageGoneError
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.format.overlay import write_overlay
from qemu_node.images.openimage import CachedImage
from qemu_node.images.store.blob import link_base
from qemu_node.qemu.firmware import Firmware, ensure_varstore
from qemu_node.qemu.spec import BaseImage, PflashFirmware
from qemu_node.vm.services import Tell
from qemu_node.vm.start.steps import ClaimedDirectory, Start, StartStep, VMUser

LONG_WAIT_S = 2.0
"""If an image takes longer, a person may want to stop the task before it is there."""

_IMAGE_TRIES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenImage:
    """An image that the VM keeps even if the cache removes it."""

    image: CachedImage
    base: BaseImage
    """The file that QEMU is to open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The VM's disk, written."""

    base: BaseImage
    size_bytes: int
    """As the guest sees it."""


async def take_image(
    start: Start,
    directory: ClaimedDirectory,
    images: ImageCache,
    timeout_s: float,
    on_long_wait: Callable[[], None] = lambda: None,
) -> TakenImage:
    """Return the image; `on_long_wait` is called once it has taken `LONG_WAIT_S`.

    The cache may remove an image until the VM has its own name for it. Then it is asked again,
    which ends: a sweep removes what nobody uses, once a minute.
    """
    for _ in range(_IMAGE_TRIES - 1):
        with contextlib.suppress(ImageGoneError):
            return await _take_image(start, directory, images, timeout_s, on_long_wait)
    return await _take_image(start, directory, images, timeout_s, on_long_wait)


async def _take_image(
    start: Start,
    directory: ClaimedDirectory,
    images: ImageCache,
    timeout_s: float,
    on_long_wait: Callable[[], None],
) -> TakenImage:
    start.announce(StartStep.IMAGE)
    image = await fetch_image(start, images, timeout_s, on_long_wait)
    try:
        start.announce(StartStep.BASE)
        base = await _base_of(image, directory)
    except BaseException:
        image.close()
        raise
    start.undo.callback(image.close)
    return TakenImage(image=image, base=base)


async def _base_of(image: CachedImage, directory: ClaimedDirectory) -> BaseImage:
    is_qcow2 = image.format is ImageFormat.QCOW2
    if image.digest is None:
        # Used in place. Who may write to the task's directory may replace what the path names; the
        # descriptor is the file that was checked.
        return BaseImage(path=image.path, is_qcow2=is_qcow2, fd=image.fd)
    await to_the_end(link_base, image.path, image.fd, directory.files.base)
    return BaseImage(path=directory.files.base, is_qcow2=is_qcow2)


async def fetch_image(
    start: Start, images: ImageCache, timeout_s: float, on_long_wait: Callable[[], None]
) -> CachedImage:
    """Return the image, waiting at most `timeout_s` for a download.

    Raises:
        HostError: the download goes on in the background; a later start will find it.
        ImageError: the image is not available, or is refused.
    """
    request = start.request
    notice = asyncio.get_running_loop().call_later(LONG_WAIT_S, on_long_wait)
    try:
        async with asyncio.timeout(timeout_s):
            image = await images.get(
                request.image,
                checksum=request.checksum,
                task_dir=request.task_dir,
                namespace=request.identity.namespace,
                on_progress=_DownloadProgress(start.tell),
            )
    except TimeoutError:
        raise HostError(
            f"the image is still being downloaded after {timeout_s:g} s",
            hint="the download goes on; a later start will find it",
        ) from None
    finally:
        notice.cancel()
    if image.note is not None:
        start.tell(image.note, {})
    return image


class _DownloadProgress:
    """Tells the task's events of a download: its start, its half, its end; Nomad keeps ten."""

    _MARKS_PCT = (0, 50, 100)

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._next = 0

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        pct = done_bytes * 100 // total_bytes if total_bytes else 0
        reached = sum(1 for mark in self._MARKS_PCT if pct >= mark)
        if reached > self._next:
            self._next = reached
            self._tell(f"Downloading image: {pct} %", {"percent": str(pct)})


async def make_disk(
    start: Start, directory: ClaimedDirectory, taken: TakenImage, user: VMUser
) -> Disk:
    """Return the VM's disk, an overlay on the image."""
    start.announce(StartStep.OVERLAY)
    image = taken.image
    size_bytes = max(image.virtual_size_bytes, start.request.disk_size_bytes or 0)
    await to_the_end(
        write_overlay,
        directory.files.overlay,
        base=taken.base.path,
        base_fd=image.fd,
        base_format=image.format,
        virtual_size_bytes=size_bytes,
        owner=user.owner,
    )
    return Disk(base=taken.base, size_bytes=size_bytes)


async def copy_varstore(
    start: Start, directory: ClaimedDirectory, user: VMUser, firmware: Firmware | None
) -> PflashFirmware | None:
    """Return the firmware with the VM's own UEFI variables; None for BIOS."""
    start.announce(StartStep.VARSTORE)
    if firmware is None:
        return None
    varstore = directory.files.varstore
    await to_the_end(ensure_varstore, firmware.varstore_template, varstore, user.owner)
    return PflashFirmware(code=firmware.code, varstore=varstore, is_secure=firmware.is_secure)


async def write_config_drive(
    start: Start, directory: ClaimedDirectory, user: VMUser
) -> ConfigDrive:
    """Return the config drive that was written from the task's directory."""
    start.announce(StartStep.CONFIG_DRIVE)
    identity = start.request.identity
    drive = complete(
        await to_the_end(read_config_drive, start.request.task_dir),
        uuid=identity.uuid,
        hostname=identity.hostname,
        name=identity.hostname,
    )
    await to_the_end(write_iso, directory.files.config_drive, drive.files, user.owner)
    return drive
