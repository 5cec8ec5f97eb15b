"""The page by keyboard alone, and with the rules of axe: for who sees it differently, or not."""

from pathlib import Path
from typing import Any

import pytest
from browser.conftest import PHONE, OpenPage, keep, shows_picture, until
from browser.fake_console import FakeConsole
from playwright.async_api import Page, expect

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

AXE = Path(__file__).parent / "vendor" / "axe" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


async def complaints(page: Page) -> list[str]:
    """Return what axe finds, in one line each."""
    if not AXE.exists():
        pytest.skip("axe is not there (make setup)")
    # By the debugger: the page's policy allows no script of ours.
    await page.evaluate(AXE.read_text())
    found: Any = await page.evaluate(
        "tags => axe.run(document, {runOnly: {type: 'tag', values: tags}})", RULES
    )
    return [
        f"{violation['id']}: {node['target']}: {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("colours", ["dark", "light"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
async def test_no_view_breaks_a_rule_of_accessibility(
    console: FakeConsole, open_page: OpenPage, colours: str, size: str
) -> None:
    options: dict[str, Any] = {"color_scheme": colours}
    if size == "phone":
        options |= {"viewport": PHONE, "has_touch": True, "is_mobile": True}
    page = await open_page(console.url, **options)
    await expect(page.locator(".login")).to_be_visible()
    found = {"login": await complaints(page)}
    await page.goto("about:blank")
    await page.goto(console.login_url)
    await expect(page.locator(".card canvas:not(.empty)").first).to_be_visible()
    found["grid"] = await complaints(page)
    await page.get_by_role("button", name="Table").click()
    await expect(page.locator("tbody tr").first).to_be_visible()
    found["table"] = await complaints(page)
    vm = console.first()
    for tab in ("screen", "terminal", "log", "events"):
        await page.goto(f"{console.url}#/vm/{vm.vm_id}/{tab}")
        if tab == "screen":
            await shows_picture(page)
        shown = {"terminal": ".xterm-rows", "log": "pre", "events": ".events"}.get(tab, ".screen")
        await expect(page.locator(shown)).to_be_visible()
        found[tab] = await complaints(page)
    await page.goto(f"{console.url}#/vm/{vm.vm_id}/screen")
    await page.get_by_role("button", name="Power").click()
    found["menu"] = await complaints(page)
    await page.get_by_role("menuitem", name="Stop").click()
    found["dialog"] = await complaints(page)
    await page.keyboard.press("Escape")
    for view in ("cluster", "node"):
        await page.goto(f"{console.url}#/{view}")
        await expect(page.locator("main h2").first).to_be_visible()
        await keep(page, f"{view}-{size}-{colours}")
        found[view] = await complaints(page)
        width = (PHONE if size == "phone" else {"width": 1360})["width"]
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
    ended = next(vm for vm in console.vms() if vm.end)
    await page.goto(f"{console.url}#/vm/{ended.vm_id}/terminal")
    await expect(page.locator(".ending canvas:not(.empty)")).to_be_visible()
    await keep(page, f"ended-terminal-{size}-{colours}")
    found["ended"] = await complaints(page)
    assert {view: words for view, words in found.items() if words} == {}


async def test_the_keyboard_alone_types_presses_buttons_and_gets_out_again(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await open_page(console.login_url)
    await expect(page.locator(".card").first).to_be_visible()
    vm = console.first()
    await page.keyboard.press("/")
    await page.keyboard.type(vm.vm_id)
    await expect(page.locator(".card")).to_have_count(1)
    await page.keyboard.press("Enter")
    await page.keyboard.press("Enter")
    await shows_picture(page)
    # The screen has the focus by itself, and takes Tab.
    await until(lambda: bool(console.screens))
    await page.keyboard.press("Tab")
    await page.keyboard.type("x")
    screen = console.screens[-1]
    await until(lambda: (ord("x"), False) in screen.keys)
    assert (0xFF09, True) in screen.keys
    await page.keyboard.press("Control+Alt+Shift")
    assert await page.evaluate("document.activeElement.closest('.tools') !== null")
    # Backwards to the buttons of the VM.
    for _ in range(30):
        if await page.evaluate("document.activeElement.textContent") == "Power":
            break
        await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Enter")
    # A person looks at the menu before the next key, too.
    await expect(page.get_by_role("menuitem").first).to_be_focused()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_contain_text("Reset")
    # Cancel has the focus: a second Enter must not do it.
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await until(lambda: bool(console.pressed))
    assert console.pressed == [f"reset {vm.vm_id}"]


async def test_full_screen_keeps_the_tools_and_says_what_was_done(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await open_page(console.login_url)
    await expect(page.locator(".card").first).to_be_visible()
    await page.goto(f"{console.url}#/vm/{console.first().vm_id}/screen")
    await shows_picture(page)
    await page.get_by_role("button", name="Full screen").click()
    await until_full(page, is_full=True)
    await page.get_by_role("button", name="Ctrl+Alt+Del").click()
    await until(lambda: (0xFFFF, False) in console.screens[-1].keys)
    await page.get_by_role("button", name="Paste as keys").click()
    await page.get_by_label("The text is typed").fill("abc")
    await page.get_by_role("button", name="Type it").click()
    await expect(page.get_by_text("characters were typed")).to_be_visible()
    await keep(page, "full-screen-dark")
    await page.get_by_role("button", name="Leave full screen").click()
    await until_full(page, is_full=False)


async def until_full(page: Page, *, is_full: bool) -> None:
    name = "Leave full screen" if is_full else "Full screen"
    await expect(page.get_by_role("button", name=name, exact=True)).to_be_visible()
    assert await page.evaluate("document.fullscreenElement !== null") is is_full
