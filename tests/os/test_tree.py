"""What must hold of the root file system of a node; nothing is booted."""

from pathlib import Path

import pytest

from osimage.check.all import checks

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(1800)]

NAMES = sorted(checks(Path("/nonexistent"), Path("/nonexistent")))


@pytest.mark.parametrize("name", NAMES)
def test_of_the_root_file_system(name: str, tree: Path, tools: Path) -> None:
    assert checks(tree, tools)[name]() == []
