import os
from pathlib import Path

import pytest

from qemu_node.host.files import holes

MIB = 1 << 20


def test_a_punched_hole_gives_its_blocks_back_and_keeps_the_size(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 2 * MIB)
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    before = os.fstat(fd).st_blocks
    if not holes.punch_hole(fd, 0, MIB + 10):
        pytest.skip("this file system punches no holes")
    assert os.fstat(fd).st_size == 2 * MIB
    assert (before - os.fstat(fd).st_blocks) * 512 >= MIB - 65536
    assert os.pread(fd, 11, MIB) == b"\0" * 10 + b"x"
    data = holes.seek_data(fd, 0)
    assert data is not None
    assert 0 < data <= MIB + 10
    holes.punch_hole(fd, 0, 2 * MIB)
    assert holes.seek_data(fd, 0) is None
    os.close(fd)


def test_a_hole_that_cannot_be_punched_is_told_from_a_failure(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="seek"):
        holes.punch_hole(writing, 0, 1)
    os.close(reading)
    os.close(writing)
