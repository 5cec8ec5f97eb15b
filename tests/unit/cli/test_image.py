import json
import os
import time
from pathlib import Path

import pytest

from qemu_node.cli.image import file_name, find_image, rows
from qemu_node.cli.main import main
from qemu_node.errors import ImageError
from qemu_node.images.cache import StoredImage
from qemu_node.images.imagefile import ImageFormat
from qemu_node.images.store import ImageStore, SourceRecord
from qemu_node.units import GIB, MIB

Output = pytest.CaptureFixture[str]


def stored(origin: str, digest: str) -> StoredImage:
    return StoredImage(
        origin=origin,
        digest=f"sha256:{digest * 16}",
        path=Path("/data/images/blobs/x"),
        format=ImageFormat.QCOW2,
        size_bytes=400 * MIB,
        virtual_size_bytes=3 * GIB,
        fetched_at=1000.0,
    )


DEBIAN = stored("https://a.example/debian.qcow2?release=13", "deb1")
MIRROR = stored("https://b.example/debian.qcow2", "deb1")
OTHER = stored("https://b.example/other/debian.qcow2", "deb2")
WINDOWS = stored("https://a.example/win.qcow2", "0ff1")


@pytest.fixture
def images_dir(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    config = short_tmp_path / "node.toml"
    config.write_text(f'[paths]\nrun = "{short_tmp_path}/r"\ndata = "{short_tmp_path}/d"\n')
    monkeypatch.setenv("QEMU_NODE_CONFIG", str(config))
    return short_tmp_path / "d" / "images"


def fill(images_dir: Path) -> SourceRecord:
    store = ImageStore(images_dir)
    store.prepare()
    record = SourceRecord(
        url="https://a.example/debian.qcow2",
        sha256="ab" * 32,
        format=ImageFormat.QCOW2,
        size_bytes=5,
        virtual_size_bytes=2 * GIB,
        fetched_at=time.time() - 190,
        checked_at=time.time(),
    )
    store.blob_path(record).write_bytes(b"image")
    store.write_record("key", record)
    return record


def test_list_shows_sizes_format_digest_and_origin(images_dir: Path, capsys: Output) -> None:
    fill(images_dir)
    assert main(["image", "list"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["IMAGE", "DIGEST", "FORMAT", "SIZE", "DISK", "AGE", "ORIGIN"]
    assert line.split()[:5] == ["debian.qcow2", "ab" * 6, "qcow2", "5", "2G"]
    assert line.endswith("https://a.example/debian.qcow2")


def test_an_empty_cache_says_so_and_is_empty_json(images_dir: Path, capsys: Output) -> None:
    assert main(["image", "list"]) == 0
    assert capsys.readouterr().err == "no images in the cache\n"
    assert main(["image", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert not images_dir.exists()


def test_json_has_bytes_and_the_whole_digest(images_dir: Path, capsys: Output) -> None:
    record = fill(images_dir)
    assert main(["image", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["digest"] == f"sha256:{record.sha256}"
    assert listed["virtual_size_bytes"] == 2 * GIB
    assert main(["image", "show", "abab", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == listed


def test_show_names_the_file(images_dir: Path, capsys: Output) -> None:
    record = fill(images_dir)
    assert main(["image", "show", "debian.qcow2"]) == 0
    assert str(ImageStore(images_dir).blob_path(record)) in capsys.readouterr().out


def test_a_cache_that_may_not_be_read_is_not_shown_as_empty(
    images_dir: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(images_dir)
    monkeypatch.setattr(os, "access", lambda *_args, **_options: False)
    assert main(["image", "list"]) == 1
    assert capsys.readouterr().err.splitlines()[1] == " hint: run this as root"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (DEBIAN.origin, DEBIAN),
        ("win.qcow2", WINDOWS),
        ("sha256:deb1deb1", DEBIAN),
        ("DEB2", OTHER),
    ],
)
def test_an_image_is_named_by_origin_file_name_or_digest(name: str, found: StoredImage) -> None:
    assert find_image([DEBIAN, MIRROR, OTHER, WINDOWS], name) == found


@pytest.mark.parametrize(
    ("name", "said"),
    [("debian.qcow2", "more than one"), ("deb", "no image"), ("absent", "no image")],
)
def test_a_name_that_is_not_one_image_is_refused(name: str, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        find_image([DEBIAN, OTHER, WINDOWS], name)


def test_a_query_is_no_part_of_a_file_name() -> None:
    assert file_name(DEBIAN) == "debian.qcow2"


def test_an_image_from_the_future_is_new() -> None:
    (row,) = rows([DEBIAN], now=0.0)
    assert row[5].text == "0s"
