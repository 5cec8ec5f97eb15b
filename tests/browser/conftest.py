"""Debian's Chromium, before a console with made-up VMs. What tests saw is kept as pictures."""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from browser.fake_console import FakeConsole, running_console
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

CHROMIUM = shutil.which("chromium")
SHOTS = Path(os.environ.get("QEMU_NODE_SHOTS") or "out/browser")
DESKTOP = {"width": 1360, "height": 860}
TIMEOUT_MS = float(os.environ.get("QEMU_NODE_PAGE_MS") or 120_000)
"""For what a page shows: the machine may be busy with other tests. Less is for who writes one."""
expect.set_options(timeout=TIMEOUT_MS)
PHONE = {"width": 390, "height": 844}
OpenPage = Callable[..., Any]
"""`open_page(url, **options of the browser)`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and CHROMIUM is None:
            why = "chromium is not installed (apt install chromium)"
            item.add_marker(pytest.mark.skip(reason=why))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncGenerator[Browser]:
    async with async_playwright() as playwright:
        # Root cannot have Chromium's sandbox; what it opens here is ours.
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def many(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[FakeConsole]:
    """A console with 500 VMs, which no test changes."""
    async with running_console(tmp_path_factory.mktemp("many"), vms=500) as console:
        yield console


@pytest_asyncio.fixture(loop_scope="module")
async def console(tmp_path: Path) -> AsyncGenerator[FakeConsole]:
    """A console with 24 VMs."""
    async with running_console(tmp_path, vms=24) as console:
        yield console


@pytest_asyncio.fixture(loop_scope="module")
async def open_page(browser: Browser) -> AsyncGenerator[Callable[..., Any]]:
    """Opens a page in a browser of its own; at the end it must have complained of nothing."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    async def open_page(url: str, **options: Any) -> Page:
        context = await browser.new_context(
            **{"viewport": DESKTOP, "color_scheme": "dark"} | options
        )
        contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))

        def heard(message: Any) -> None:
            # A lost connection and a refused request are logged by the browser itself.
            is_expected = message.text.startswith("Failed to load resource") or (
                "WebSocket connection" in message.text or "willReadFrequently" in message.text
            )
            if message.type in ("error", "warning") and not is_expected:
                complaints.append(f"{message.type}: {message.text}")

        page.on("console", heard)
        await page.goto(url)
        return page

    yield open_page
    for context in contexts:
        await context.close()
    assert not complaints


async def until(condition: Callable[[], object]) -> None:
    """Return when something is so."""
    async with asyncio.timeout(TIMEOUT_MS / 1000):
        while not condition():
            await asyncio.sleep(0.05)


_PIXELS = """() => {
  const canvas = document.querySelector('.screen canvas');
  if (!canvas || !canvas.width) return 0;
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
}"""


async def shows_picture(page: Page) -> None:
    """Wait for a screen that is not of one colour; the page's policy lets no test wait in it."""
    async with asyncio.timeout(TIMEOUT_MS / 1000):
        while await page.evaluate(_PIXELS) < 2:
            await asyncio.sleep(0.05)


async def is_connected(page: Page) -> None:
    """Wait for a screen, whatever it shows: the small guest's is black once it runs."""
    await expect(page.locator(".screen canvas")).to_be_visible()
    await expect(page.locator(".veil")).to_have_count(0)


async def keep(page: Page, name: str) -> None:
    """Keep a picture of the page."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SHOTS / f"{name}.png")
