from pathlib import Path

import pytest

from qemu_node.images.store.store import ImageStore


@pytest.fixture
def root(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    config = short_tmp_path / "node.toml"
    # No share of a disk is 0: what this machine's has free plays no part.
    config.write_text(
        f'[paths]\nrun = "{short_tmp_path}/r"\ndata = "{short_tmp_path}/d"\n'
        '[images]\nlow_space = "0%"\n[disk]\nreserve = "0"\n'
    )
    monkeypatch.setenv("QEMU_NODE_CONFIG", str(config))
    return short_tmp_path / "d"


@pytest.fixture
def store(root: Path) -> ImageStore:
    store = ImageStore(root / "images")
    store.prepare()
    return store
