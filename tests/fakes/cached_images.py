"""Images in the cache of a test's own node, as the commands see them."""

import time

from fakes.stored_images import put
from qemu_node.config.images import ImagesConfig
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.store.blob import link_base
from qemu_node.images.store.keptimage import KeptImage
from qemu_node.images.store.sourcerecord import SourceRecord
from qemu_node.images.store.store import ImageStore

URL = "https://a.example/debian.raw"


def fill(store: ImageStore, url: str = URL, content: bytes = b"x" * 2048) -> SourceRecord:
    return put(store, url[-20:].replace("/", "-"), content, url=url, fetched_at=time.time() - 190)


def start(store: ImageStore, record: SourceRecord) -> None:
    base = store.root.parent / "vm" / "web-0123456789ab" / "base.img"
    base.parent.mkdir(parents=True)
    with store.blob_path(record).open("rb") as file:
        link_base(store.blob_path(record), file.fileno(), base)


def images(store: ImageStore) -> list[KeptImage]:
    return ImageKeeper(store.root, store.root.parent / "vm", ImagesConfig()).images()
