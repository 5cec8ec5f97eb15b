"""Errors of images. Each class exists because a caller acts differently on it."""

import contextlib
from collections.abc import Generator
from pathlib import Path

from qemu_node.errors import ImageError
from qemu_node.host.files import atomic


class UnsafeImageError(ImageError):
    """The file is damaged, hostile or of a format that is not accepted; no program opened it."""


class ImageDownloadError(ImageError):
    """The image did not arrive whole; the same attempt may succeed later."""

    retry = True

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        """After how long the server wants to be asked again, if it said so."""


class ImageRefusedError(ImageError):
    """The source answered, but did not serve the image; asking again does not help."""

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        """The HTTP status, if the source refused by one."""

    @property
    def is_denial(self) -> bool:
        """Whether the source says that we may not have the image."""
        return self.status in (401, 403)


class ChecksumMismatchError(ImageError):
    """The file does not have the digest that the checksum names; it has been removed."""


class ImageStorageError(ImageError):
    """The cache's file system refused a step, for example when it is full; complete images stay."""

    retry = True


class ImageGoneError(ImageStorageError):
    """The cache removed the image between two steps of a start; the start can ask for it again."""


@contextlib.contextmanager
def storage_errors(action: str, path: Path) -> Generator[None]:
    """Turn an OSError inside the block into an `ImageStorageError` that says what was tried."""
    try:
        yield
    except OSError as exc:
        error = atomic.host_error(action, path, exc)
        raise ImageStorageError(str(error), hint=error.hint) from exc
