"""Pages of the console in Debian's Chromium, and what the browser itself says of them.

Owns the browser and its figures: bytes by its network events, times by its own clock and by what
its main thread did. Does not own which figures there are (`fleets`).
"""

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, BrowserContext, CDPSession, Page, async_playwright

from bench.rig.node import CannotRunError

_VIEWPORT = {"width": 1360, "height": 860}
_WAIT_MS = 300_000
"""500 cards on a busy machine; what is judged is measured."""
_POLL_S = 0.05

_NOTE_CARDS = """
new MutationObserver((_, observer) => {
  if (document.querySelectorAll('.card').length < %d) return;
  observer.disconnect();
  // Drawn, not only made.
  requestAnimationFrame(() => setTimeout(() => { window.cardsAt = performance.now(); }));
}).observe(document, { childList: true, subtree: true });
"""

_UPDATE = """async (text) => {
  const main = document.querySelector('script[type=module]').src;
  const { applyDelta } = await import(main.replace('main.mjs', 'fleet.mjs'));
  applyDelta(JSON.parse(text));
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""


class Visitor:
    """One page in a browser that has nothing in its cache."""

    def __init__(self, page: Page, cdp: CDPSession) -> None:
        self.page = page
        self._cdp = cdp
        self._urls: dict[str, str] = {}
        self._bytes: Counter[str] = Counter()
        self.pictures = 0
        """Answers with a new picture."""
        cdp.on("Network.requestWillBeSent", self._note_request)
        cdp.on("Network.responseReceived", self._note_response)
        cdp.on("Network.dataReceived", self._note_data)
        cdp.on("Network.loadingFinished", self._note_end)

    def _note_request(self, event: Any) -> None:
        self._urls[event["requestId"]] = event["request"]["url"]

    def _note_response(self, event: Any) -> None:
        if self._is_picture(event["requestId"]) and event["response"]["status"] == 200:
            self.pictures += 1

    def _note_data(self, event: Any) -> None:
        # Of a stream that has no end; what has one is counted whole there.
        self._bytes[event["requestId"]] += event["encodedDataLength"]

    def _note_end(self, event: Any) -> None:
        self._bytes[event["requestId"]] = int(event["encodedDataLength"])

    def _is_picture(self, request_id: str) -> bool:
        return self._urls.get(request_id, "").endswith("/thumbnail")

    def received_kb(self, *, pictures_only: bool = False) -> float:
        """Return what came over the wire so far, with the headers of answers."""
        return (
            sum(
                count
                for request_id, count in self._bytes.items()
                if self._is_picture(request_id) or not pictures_only
            )
            / 1000
        )

    async def visit(self, url: str, *, cards: int) -> tuple[float, float]:
        """Open the page of all VMs.

        Returns:
            Milliseconds until all cards are drawn, and the main thread's CPU milliseconds by then.
        """
        await self.page.add_init_script(_NOTE_CARDS % cards)
        await self.page.goto(url, wait_until="commit", timeout=_WAIT_MS)
        async with asyncio.timeout(_WAIT_MS / 1000):
            # The page's policy lets Playwright wait for nothing in it.
            while (drawn_ms := await self.page.evaluate("window.cardsAt")) is None:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
        return float(drawn_ms), 1000 * await self._busy_s()

    async def see_pictures(self, count: int) -> None:
        """Return when so many pictures are drawn."""
        picture = self.page.locator(".card canvas:not(.empty)").nth(count - 1)
        await picture.wait_for(state="attached", timeout=_WAIT_MS)

    async def update(self, delta: dict[str, object]) -> float:
        """Let `delta` arrive; return the CPU milliseconds of the main thread until it is drawn."""
        before = await self._busy_s()
        await self.page.evaluate(_UPDATE, json.dumps(delta))
        return 1000 * (await self._busy_s() - before)

    async def _busy_s(self) -> float:
        metrics = (await self._cdp.send("Performance.getMetrics"))["metrics"]
        return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


class Chromium:
    """A running browser."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    @asynccontextmanager
    async def visitor(self) -> AsyncGenerator[Visitor]:
        """Give somebody who has never been here."""
        context: BrowserContext = await self._browser.new_context(
            viewport=_VIEWPORT,  # type: ignore[arg-type]
            ignore_https_errors=True,
        )
        try:
            page = await context.new_page()
            cdp = await context.new_cdp_session(page)
            await cdp.send("Network.enable")
            # CPU time of the main thread, whatever else runs on the machine.
            await cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
            yield Visitor(page, cdp)
        finally:
            await context.close()


def require_chromium() -> str:
    """Return the browser's program.

    Raises:
        CannotRunError: it is not installed.
    """
    found = shutil.which("chromium")
    if found is None:
        raise CannotRunError("chromium is not installed")
    return found


@asynccontextmanager
async def chromium() -> AsyncGenerator[Chromium]:
    """Give a browser for the block.

    Raises:
        CannotRunError: it is not installed.
    """
    program = require_chromium()
    async with async_playwright() as playwright:
        # Root cannot have Chromium's sandbox; what it opens here is ours.
        browser = await playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield Chromium(browser)
        finally:
            await browser.close()
