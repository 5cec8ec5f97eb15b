from fakes.cached_images import fill, images

from qemu_node.cli.image.table import last_use
from qemu_node.images.store.store import ImageStore


def test_image_used_in_the_future_is_used_just_now(store: ImageStore) -> None:
    fill(store)
    assert last_use(images(store)[0], now_s=0.0) == "0s"
