"""Makes the pictures of the docs: `make screenshots`.

Made-up VMs, so that the pictures show what an operator's node looks like, and always the same.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from browser.conftest import CHROMIUM
from browser.fake_console import running_console
from PIL import Image
from playwright.async_api import async_playwright

_MAX_BYTES = 150_000
_SIZE = {"width": 1200, "height": 740}


def shrink(path: Path) -> None:
    """Make a picture fit into the repository."""
    with Image.open(path) as image:
        # Also the colours of a few dots are kept.
        few = image.convert("RGB").quantize(
            256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
        few.save(path, optimize=True)
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise SystemExit(f"{path} has {size} bytes; at most {_MAX_BYTES} are kept")


async def main(out: Path) -> None:
    """Write the pictures into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        async with (
            running_console(Path(directory), vms=48) as console,
            async_playwright() as playwright,
        ):
            args = ["--no-sandbox", "--disable-gpu"]
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=args)
            vm = console.first(system="windows")
            views = (
                ("console-vms", "#/", "dark", ".card canvas:not(.empty)"),
                ("console-screen", f"#/vm/{vm.vm_id}/screen", "light", ".screen canvas"),
            )
            for name, place, colours, shown in views:
                page = await browser.new_page(viewport=_SIZE, color_scheme=colours)  # type: ignore[arg-type]
                await page.goto(console.login_url)
                await page.locator(".card").first.wait_for()
                if name == "console-vms":
                    await page.get_by_label("Order").select_option("address")
                await page.goto(console.url + place)
                await page.locator(shown).first.wait_for()
                await page.wait_for_timeout(3000)
                path = out / f"{name}.png"
                await page.screenshot(path=path)
                shrink(path)
                await page.close()
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
