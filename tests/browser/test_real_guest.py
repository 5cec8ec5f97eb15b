"""The page in a real browser, the console as it is served, and a real guest."""

import base64
import io
import random
import string
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from browser.conftest import TIMEOUT_MS, OpenPage, is_connected, keep
from fakes.line import line_to
from integration.vmnode import VMNode
from PIL import Image
from playwright.async_api import expect

from qemu_node.config.node import NodeConfig
from qemu_node.web.service.serving import serving_by_link

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.needs_qemu,
    pytest.mark.timeout(1800),
]
BOOT_MS = 4 * TIMEOUT_MS
READY = "small guest ready"
SIZE = 2000

KEYS = "keys of 1 browser"
# Takes what is typed on the screen's keyboard, and says on the serial port what came.
TAKE = f"""#!/bin/sh
exec 3<>/dev/tty1
stty raw -echo <&3
take() {{
    echo "take $1"
    timeout 600 dd bs=1 count=$2 <&3 2>/dev/null | base64 -w 0
    echo " taken $1"
}}
take text {SIZE}
take keys {len(KEYS)}
"""


def taken(log: str, what: str) -> str:
    """Return what the guest has taken."""
    text = log.partition(f"take {what}")[2].partition(f" taken {what}")[0]
    return base64.b64decode(text).decode()


@pytest_asyncio.fixture(loop_scope="module")
async def node(short_tmp_path: Path, small_guest_image: Path) -> AsyncIterator[VMNode]:
    node = VMNode(short_tmp_path, small_guest_image)
    yield node
    await node.close()


def through(url: str, port: int) -> str:
    """Return an address of this console on another port."""
    head, _, rest = url.partition("/#")
    return f"{head.rpartition(':')[0]}:{port}/#{rest}"


async def test_guest_is_seen_typed_to_and_its_end_explained(
    node: VMNode, open_page: OpenPage
) -> None:
    vm = await node.start(node.request())
    async with serving_by_link(NodeConfig(paths=node.paths)) as make_link:
        page = await open_page(make_link())
        await expect(page.locator(".card")).to_have_count(1)
        await node.printed(READY)
        await expect(page.locator(".card canvas:not(.empty)")).to_be_visible()
        await keep(page, "real-grid")
        await page.locator(".card > a").click()
        await is_connected(page)
        await keep(page, "real-screen")
        await page.get_by_role("link", name="Terminal").click()
        rows = page.locator(".xterm-rows")
        await page.locator(".tty").click()
        await page.keyboard.type("hello from a browser")
        await page.keyboard.press("Enter")
        await expect(rows).to_contain_text("hello from a browser")
        await keep(page, "real-terminal")
        await vm.agent.shutdown(timeout_s=60)
        await expect(page.locator(".vm-head")).to_contain_text("ended", timeout=BOOT_MS)
        await expect(rows).to_contain_text("hello from a browser")
        await expect(page.locator(".ending")).to_contain_text("The VM has ended")
        # Somebody who comes later: the last screen, and the log, which this node keeps in memory.
        logs = Path(vm.record.alloc_dir) / "alloc" / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        (logs / "vm.stdout.0").write_bytes(bytes(node.console["vm"]))
        await page.reload()
        await expect(rows).to_contain_text(READY)
        await expect(page.locator(".ending canvas:not(.empty)")).to_be_visible()
        await keep(page, "real-ended-terminal")
        await page.get_by_role("link", name="Screen", exact=True).click()
        await expect(page.locator(".veil canvas:not(.empty)")).to_be_visible()
        await keep(page, "real-ended-screen")
        await page.get_by_role("link", name="Log").click()
        await expect(page.locator("pre")).to_contain_text(READY)


async def test_two_thousand_characters_are_pasted_and_keys_reach_the_guest(
    node: VMNode, open_page: OpenPage
) -> None:
    mixed = string.ascii_letters + string.digits + string.punctuation + " " * 20
    text = "".join(random.Random(5800).choices(mixed, k=SIZE))
    await node.start(node.request(user_data=TAKE))
    async with serving_by_link(NodeConfig(paths=node.paths)) as make_link:
        page = await open_page(make_link())
        await page.locator(".card > a").click()
        await is_connected(page)
        await node.printed("take text", timeout_s=400)
        await page.get_by_role("button", name="Paste as keys").click()
        await page.get_by_label("The text is typed").fill(text)
        await page.get_by_role("button", name="Type it").click()
        await expect(page.get_by_role("progressbar")).to_be_visible()
        await keep(page, "real-paste")
        assert taken(await node.printed(" taken text", timeout_s=900), "text") == text
        await expect(page.get_by_text(f"{SIZE} characters were typed")).to_be_visible()
        # By the keyboard itself, which the paste has left with no key down.
        await page.locator(".screen canvas").click()
        await page.keyboard.type(KEYS, delay=50)
        assert taken(await node.printed(" taken keys", timeout_s=300), "keys") == KEYS
        await keep(page, "real-typed")
        async with page.expect_download() as downloading:
            await page.get_by_role("link", name="Screenshot").click()
        with Image.open(
            io.BytesIO(Path(await (await downloading.value).path()).read_bytes())
        ) as png:
            assert png.format == "PNG"
            assert png.width >= 640


async def test_reset_network_and_a_second_viewer(node: VMNode, open_page: OpenPage) -> None:
    await node.start(node.request())
    async with serving_by_link(NodeConfig(paths=node.paths)) as make_link:
        link = make_link()
        port = int(link.partition("/#")[0].rpartition(":")[2])
        async with line_to(port) as line:
            page = await open_page(through(link, line.port))
            await page.locator(".card > a").click()
            await is_connected(page)
            await node.printed(READY)
            second = await open_page(make_link(), viewport={"width": 900, "height": 700})
            await expect(second.locator(".viewers")).to_have_text("1")
            await second.locator(".card > a").click()
            await is_connected(second)
            for one in (page, second):
                await expect(one.get_by_text("2 are looking")).to_be_visible()
            await keep(second, "real-second-viewer")

            await page.get_by_role("button", name="Power").click()
            await page.get_by_role("menuitem", name="Reset").click()
            await page.get_by_role("dialog").get_by_role("button", name="Reset").click()
            await expect(page.get_by_text("boots again")).to_be_visible()
            await node.printed(READY, times=2, timeout_s=400)
            await expect(page.locator(".veil")).to_have_count(0)
            await expect(page.locator(".vm-head .state")).to_have_text("running")

            await line.cut()
            await expect(page.locator(".lost").first).to_be_visible()
            await expect(page.locator(".veil")).to_contain_text("connection was lost")
            await keep(page, "real-line-cut")
            await expect(second.get_by_text("are looking")).to_have_count(0)
            await line.mend()
            await expect(page.locator(".veil")).to_have_count(0)
            await expect(page.locator(".lost:not(.live)")).to_have_count(0)
            await is_connected(page)
            await expect(second.get_by_text("2 are looking")).to_be_visible()
