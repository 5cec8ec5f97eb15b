import os
from pathlib import Path

import pytest

from qemu_node.nodeos.setup.probe import read_kept_seed
from qemu_node.nodeos.setup.seed import SEED_MAX_BYTES


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    path = tmp_path / "root/qemu-node/seed.toml"
    path.parent.mkdir(parents=True)
    return path


def test_the_seed_of_an_installation_is_found_on_its_disk(seed: Path) -> None:
    root = seed.parents[1]
    assert read_kept_seed(root) is None
    seed.write_bytes(b"# mine")
    assert read_kept_seed(root) == b"# mine"


def test_a_seed_that_leads_off_its_disk_is_none(seed: Path, tmp_path: Path) -> None:
    """Without end, too: a link to /dev/zero would take all memory of the live system."""
    for target in ("/dev/zero", str(tmp_path / "other")):
        seed.unlink(missing_ok=True)
        seed.symlink_to(target)
        (tmp_path / "other").write_bytes(b"# mine")
        assert read_kept_seed(seed.parents[1]) is None


def test_a_seed_that_nobody_writes_is_not_waited_for(seed: Path) -> None:
    os.mkfifo(seed)
    assert read_kept_seed(seed.parents[1]) is None


def test_a_file_that_is_larger_than_a_seed_is_not_read_whole(seed: Path) -> None:
    with seed.open("wb") as file:
        file.truncate(SEED_MAX_BYTES << 10)
    data = read_kept_seed(seed.parents[1])
    assert data is not None
    assert len(data) == SEED_MAX_BYTES + 1
