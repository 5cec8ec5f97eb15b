"""The page in a real browser, the console as it is served, and a real guest."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from browser.conftest import OpenPage, keep, shows_picture
from integration.vmnode import VMNode
from playwright.async_api import expect

from qemu_node.config.node import NodeConfig
from qemu_node.web.service.serving import serving_by_link

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.needs_qemu,
    pytest.mark.timeout(900),
]
BOOT_MS = 120_000


@pytest_asyncio.fixture(loop_scope="module")
async def node(short_tmp_path: Path, small_guest_image: Path) -> AsyncIterator[VMNode]:
    node = VMNode(short_tmp_path, small_guest_image)
    yield node
    await node.close()


async def test_guest_is_seen_typed_to_and_its_end_explained(
    node: VMNode, open_page: OpenPage
) -> None:
    vm = await node.start(node.request())
    async with serving_by_link(NodeConfig(paths=node.paths)) as make_link:
        page = await open_page(make_link())
        await expect(page.locator(".card")).to_have_count(1)
        await page.locator(".card > a").click()
        await keep(page, "real-first")
        await shows_picture(page)
        await keep(page, "real-screen")
        await page.get_by_role("link", name="Terminal").click()
        rows = page.locator(".xterm-rows")
        await node.printed("small guest ready")
        await page.locator(".tty").click()
        await page.keyboard.type("hello from a browser")
        await page.keyboard.press("Enter")
        await expect(rows).to_contain_text("hello from a browser")
        await keep(page, "real-terminal")
        await vm.agent.shutdown(timeout_s=60)
        await expect(page.locator(".vm-head")).to_contain_text("ended", timeout=BOOT_MS)
        await expect(rows).to_contain_text("hello from a browser")
        await keep(page, "real-ended")
