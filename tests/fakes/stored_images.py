"""Images put into a cache without a download."""

import time

from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.source.checksum import Algorithm
from qemu_node.images.store.partialfile import PartialFile
from qemu_node.images.store.sourcerecord import SourceRecord
from qemu_node.images.store.store import ImageStore

KEY = "0123456789abcdef"


def put(
    store: ImageStore,
    key: str = KEY,
    content: bytes = b"x" * 512,
    *,
    url: str | None = None,
    fetched_at: float | None = None,
) -> SourceRecord:
    """Place `content` as what the source `key` gives now, as a pull would."""
    partial = PartialFile.create(store.partial_path(key), {Algorithm.SHA256})
    partial.write(content)
    at_s = time.time() if fetched_at is None else fetched_at
    record = SourceRecord(
        url=url or f"http://h/{key}",
        sha256=partial.checksum(Algorithm.SHA256).digest,
        format=ImageFormat.RAW,
        size_bytes=partial.size_bytes,
        virtual_size_bytes=partial.size_bytes,
        fetched_at=at_s,
        checked_at=at_s,
    )
    stored = store.place(key, partial, record)
    partial.discard()
    return stored
