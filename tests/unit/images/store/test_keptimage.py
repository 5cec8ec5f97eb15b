from pathlib import Path

import pytest
from fakes.stored_images import KEY, put

from qemu_node.config.images import ImagesConfig
from qemu_node.errors import ImageError
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.store.keptimage import KeptImage, find_image
from qemu_node.images.store.store import ImageStore


@pytest.fixture
def three(tmp_path: Path) -> list[KeptImage]:
    store = ImageStore(tmp_path / "images")
    store.prepare()
    put(store, "1", b"1" * 512, url="https://a.example/debian.qcow2?…")
    put(store, "2", b"2" * 512, url="https://b.example/other/debian.qcow2")
    put(store, "3", b"3" * 512, url="https://a.example/win.qcow2")
    return ImageKeeper(store.root, tmp_path / "vm", ImagesConfig()).images()


def test_image_is_named_by_origin_file_name_or_digest(three: list[KeptImage]) -> None:
    debian, windows, other = three
    assert find_image(three, "https://a.example/debian.qcow2?…") == debian
    assert find_image(three, "win.qcow2") == windows
    assert find_image(three, other.digest[:20].upper().replace("SHA256", "sha256")) == other


@pytest.mark.parametrize(
    ("name", "said"),
    [("debian.qcow2", "more than one"), ("abc", "no image"), ("absent", "no image")],
)
def test_name_that_is_not_one_image_is_refused(
    three: list[KeptImage], name: str, said: str
) -> None:
    with pytest.raises(ImageError, match=said):
        find_image(three, name)


def test_url_means_what_its_source_gives_now(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    store.prepare()
    url = "https://a.example/debian.qcow2"
    old = put(store, content=b"1" * 512, url=url)
    store.update(KEY, lambda record: record.with_version(old.sha256, by_digest=True))
    new = put(store, content=b"2" * 512, url=url)
    images = ImageKeeper(store.root, tmp_path / "vm", ImagesConfig()).images()
    assert find_image(images, url).blob.sha256 == new.sha256
    assert find_image(images, "debian.qcow2").blob.sha256 == new.sha256
    assert find_image(images, old.sha256[:12]).label == url
