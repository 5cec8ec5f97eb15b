"""The guard of the integration tests, which must neither miss the product nor blame a test."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from fakes.loop_guard import guarded_loop

import qemu_node

_CODE = """
import asyncio, os, time
async def on_the_loop(path): unlink(path)
async def in_a_thread(path): await asyncio.to_thread(os.unlink, path)
async def reads_much(path): os.read(os.open(path, os.O_RDONLY), 1 << 24)
async def reads_little(path): os.read(os.open(path, os.O_RDONLY), 1 << 10)
def unlink(path): os.unlink(path)
"""


@pytest.fixture
def product() -> dict[str, Any]:
    """Functions that seem to stand in the product."""
    names: dict[str, Any] = {}
    filename = str(Path(qemu_node.__file__).parent / "made_up.py")
    exec(compile(_CODE, filename, "exec"), names)
    return names


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_bytes(bytes(1 << 22))
    return file


@pytest.mark.parametrize(
    ("name", "is_found"),
    [("on_the_loop", True), ("in_a_thread", False), ("reads_much", True), ("reads_little", False)],
)
@pytest.mark.parametrize("is_task", [True, False])
async def test_what_a_coroutine_of_the_product_does_on_the_loop_is_found(
    product: dict[str, Any], path: Path, name: str, *, is_found: bool, is_task: bool
) -> None:
    with guarded_loop() as found:
        work = product[name](path)
        await (asyncio.ensure_future(work) if is_task else work)
    assert bool(found) is is_found
    if is_found:
        assert name in found[0]


async def test_what_a_test_does_itself_is_not_the_product_s(
    product: dict[str, Any], path: Path
) -> None:
    with guarded_loop() as found:
        product["unlink"](path)
        path.touch()
        os.unlink(path)  # noqa: PTH108
    assert found == []
