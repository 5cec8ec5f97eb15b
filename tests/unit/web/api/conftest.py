"""The directories of a node whose VMs a test publishes."""

from pathlib import Path

import pytest

from qemu_node.config.node import Paths


@pytest.fixture
def paths(short_tmp_path: Path) -> Paths:
    return Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))
