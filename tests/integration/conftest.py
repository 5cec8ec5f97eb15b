"""The node that most of these tests have. A file whose guests boot something says `image` anew."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from integration.vmnode import VMNode


@pytest.fixture
def image(empty_image: Path) -> Path:
    return empty_image


@pytest.fixture
async def node(short_tmp_path: Path, image: Path) -> AsyncIterator[VMNode]:
    node = VMNode(short_tmp_path, image)
    yield node
    await node.close()
