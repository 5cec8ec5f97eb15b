"""How an image can fail a VM. Each class exists because a caller acts differently on it."""

import contextlib
from collections.abc import Generator
from pathlib import Path

from qemu_node.errors import ImageError
from qemu_node.host.files import atomic


class UnsafeImageError(ImageError):
    """The file is damaged, hostile or of a kind not accepted; nothing else has opened it."""


class ImageDownloadError(ImageError):
    """The image did not arrive whole; the same attempt may succeed later."""

    retry = True

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        """When the server wants to be asked again, where it said so."""


class ImageRefusedError(ImageError):
    """The source answered, and with something else than the image; asking again will not help."""

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        """The HTTP status, where that is what refused."""

    @property
    def is_denial(self) -> bool:
        """Whether the source says that we may not have the image (any more)."""
        return self.status in (401, 403)


class ChecksumMismatchError(ImageError):
    """The bytes are not those that the checksum names; they have been removed."""


class ImageStorageError(ImageError):
    """The cache's file system refused a step, full for instance; what was complete still is."""

    retry = True


class ImageGoneError(ImageStorageError):
    """The cache removed the image between two steps of a start; the start may ask for it again."""


class ImageInUseError(ImageError):
    """VMs run on the image, or the operator keeps it; nothing was removed."""


@contextlib.contextmanager
def storage_errors(action: str, path: Path) -> Generator[None]:
    """Raise what the host refuses inside as `ImageStorageError`, which says what was tried."""
    try:
        yield
    except OSError as exc:
        error = atomic.host_error(action, path, exc)
        raise ImageStorageError(str(error), hint=error.hint) from exc
