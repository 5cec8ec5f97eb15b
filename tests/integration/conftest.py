"""The node that most of these tests have. A file whose guests boot something says `image` anew."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fakes.loop_guard import guarded_loop
from integration.vmnode import VMNode


@pytest.fixture
def image(empty_image: Path) -> Path:
    return empty_image


@pytest.fixture
async def node(short_tmp_path: Path, image: Path) -> AsyncIterator[VMNode]:
    node = VMNode(short_tmp_path, image)
    yield node
    await node.close()


@pytest.fixture(autouse=True)
def loop_waits_for_no_disk() -> Iterator[None]:
    """Fail a test in which the product's event loop waited for a disk."""
    with guarded_loop() as found:
        yield
    assert not found, "\n".join(found)
