"""An image of the cache with where it came from and who uses it, and finding one by name. Pure.

Does not own finding the facts, nor what is done with it (`keeper`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qemu_node.errors import ImageError
from qemu_node.images.source.checksum import Algorithm
from qemu_node.images.store.eviction import Reason
from qemu_node.images.store.record import SourceRecord
from qemu_node.images.store.store import Blob
from qemu_node.text import nearest

_DIGEST_MIN_CHARS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSource:
    """A source of an image, and why the image may have to stay."""

    key: str
    record: SourceRecord
    is_prefetched: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptImage:
    """An image of the cache, with where it came from and who uses it."""

    blob: Blob
    sources: tuple[KeptSource, ...]
    """Those that give it as far as is known, by URL."""
    earlier_of: tuple[str, ...]
    """URLs of sources that give another one by now, while jobs ask for this one by checksum."""
    users: tuple[str, ...]
    """`vm_id`s of the VMs that run on it."""

    @property
    def digest(self) -> str:
        """`sha256:…`."""
        return f"{Algorithm.SHA256}:{self.blob.sha256}"

    @property
    def label(self) -> str:
        """What messages call it: where it came from, else its digest."""
        return next(iter((*self.origins, *self.earlier_of)), self.digest)

    @property
    def origins(self) -> tuple[str, ...]:
        """The sources' URLs, without secrets."""
        return tuple(source.record.url for source in self.sources)

    @property
    def is_pinned(self) -> bool:
        """Whether the operator keeps it."""
        return any(source.record.pinned for source in self.sources)

    @property
    def is_prefetched(self) -> bool:
        """Whether the node's settings keep it."""
        return any(source.is_prefetched for source in self.sources)

    @property
    def is_outdated(self) -> bool:
        """Whether no source gives it any more, and nobody asks for it; it goes with its last VM."""
        return not self.sources and not self.earlier_of

    @property
    def is_in_use(self) -> bool:
        """Whether something else than the cache has a name for it."""
        return self.blob.is_linked


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedImage:
    """An image that a sweep removed, or would."""

    image: KeptImage
    reason: Reason


def find_image(images: Sequence[KeptImage], name: str) -> KeptImage:
    """Return the image that `name` means: pure.

    That is, in this order: the URL of a source, a URL's file name, the beginning of a digest. A URL
    means what its source gives now.

    Raises:
        ImageError: none, or several; the message says which.
    """
    digest = name.removeprefix("sha256:").lower()
    for matches in (
        [image for image in images if name in image.origins],
        [image for image in images if name in map(file_name, image.origins)],
        [
            image
            for image in images
            if len(digest) >= _DIGEST_MIN_CHARS and image.blob.sha256.startswith(digest)
        ],
    ):
        if len(matches) > 1:
            choices = ", ".join(image.label for image in matches)
            raise ImageError(f"{name!r} means more than one image: {choices}")
        if matches:
            return matches[0]
    raise ImageError(f"no image {name!r} in the cache", hint=_hint(images, name))


def _hint(images: Sequence[KeptImage], name: str) -> str:
    """Return what to type for an image that was not found."""
    if not images:
        return "the cache is empty: `qemu-node image pull URL` downloads an image"
    origins = [origin for image in images for origin in image.origins]
    near = nearest(name, [*origins, *map(file_name, origins)])
    meant = f"did you mean {near}? " if near else ""
    return f"{meant}`qemu-node image list` shows all"


def file_name(origin: str) -> str:
    """Return the last part of where an image came from: pure."""
    return origin.partition("?")[0].rstrip("/").rpartition("/")[2] or origin
