"""An image of the cache with its sources and its users, and finding one by name. Pure.

Does not own finding the facts, nor what is done with an image (`keeper`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qemu_node.errors import ImageError
from qemu_node.images.source.checksum import Algorithm
from qemu_node.images.store.blob import Blob, FileId
from qemu_node.images.store.eviction import Evictable, Reason
from qemu_node.images.store.sourcerecord import SourceRecord, Version
from qemu_node.text import nearest

_DIGEST_MIN_CHARS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSource:
    """A source of an image, and why the image may have to stay."""

    key: str
    record: SourceRecord
    is_prefetched: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptImage(Evictable):
    """An image of the cache with its sources and its users."""

    blob: Blob
    sources: tuple[KeptSource, ...]
    """The sources that serve it as far as is known, by URL."""
    earlier_of: tuple[str, ...]
    """URLs of sources that now serve another image, while jobs ask for this one by checksum."""
    users: tuple[str, ...]
    """`vm_id`s of the VMs that run on it."""

    @property
    def digest(self) -> str:
        """`sha256:…`."""
        return f"{Algorithm.SHA256}:{self.blob.sha256}"

    @property
    def label(self) -> str:
        """Its name in messages: the URL of a source, else its digest."""
        return next(iter((*self.origins, *self.earlier_of)), self.digest)

    @property
    def origins(self) -> tuple[str, ...]:
        """The sources' URLs, without secrets."""
        return tuple(source.record.url for source in self.sources)

    @property
    def is_pinned(self) -> bool:
        """Whether the operator has pinned it."""
        return any(source.record.pinned for source in self.sources)

    @property
    def is_prefetched(self) -> bool:
        """Whether it is prefetched."""
        return any(source.is_prefetched for source in self.sources)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedImage:
    """An image that was removed, or would be."""

    image: KeptImage
    reason: Reason


def kept_images(
    blobs: Sequence[Blob],
    records: Mapping[str, SourceRecord],
    users: Mapping[FileId, tuple[str, ...]],
    prefetched: frozenset[str],
) -> list[KeptImage]:
    """Return the images of a cache, by URL; the outdated ones come last. Pure.

    A blob that does not have its record's size is damaged: no source counts, so it is outdated.

    Args:
        blobs: The files of the cache.
        records: What is known of each source, by key.
        users: The VMs that have a link to a file.
        prefetched: Keys of the sources that are prefetched.
    """
    images = []
    for blob in blobs:
        current = sorted(
            (record.url, key) for key, record in records.items() if _is_blob(record, blob)
        )
        earlier = sorted(
            record.url
            for record in records.values()
            for version in record.earlier
            if version.is_asked_for and _is_blob(version, blob)
        )
        sources = tuple(
            KeptSource(key=key, record=records[key], is_prefetched=key in prefetched)
            for _, key in current
        )
        images.append(
            KeptImage(
                name=blob.path.name,
                allocated_bytes=blob.allocated_bytes,
                last_used_at=blob.last_used_at,
                is_in_use=blob.is_linked,
                is_kept=any(each.is_prefetched or each.record.pinned for each in sources),
                is_outdated=not sources and not earlier,
                blob=blob,
                sources=sources,
                earlier_of=tuple(earlier),
                users=users.get(blob.file_id, ()),
            )
        )
    return sorted(images, key=lambda image: (image.is_outdated, not image.sources, image.label))


def _is_blob(version: Version, blob: Blob) -> bool:
    return version.blob_name == blob.path.name and version.size_bytes == blob.size_bytes


def find_image(images: Sequence[KeptImage], name: str) -> KeptImage:
    """Return the image that `name` names: a URL, a URL's file name, or the beginning of a digest.

    They are tried in this order. A URL names the image that its source serves now. Pure.

    Raises:
        ImageError: no image has the name, or several have; the message lists them.
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
    """Return the last part of an image's URL. Pure."""
    return origin.partition("?")[0].rstrip("/").rpartition("/")[2] or origin
