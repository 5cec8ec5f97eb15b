"""The page on a phone: fingers, the phone's keyboard, and the keys that this one lacks."""

import pytest
from browser.conftest import PHONE, OpenPage, keep, shows_picture, until
from browser.fake_console import FakeConsole
from browser.fake_vms import SIZE
from playwright.async_api import Page, expect

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

CONTROL, ESCAPE, ENTER, BACKSPACE, UP = 0xFFE3, 0xFF1B, 0xFF0D, 0xFF08, 0xFF52
ON_PHONE = {"viewport": PHONE, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


async def opened(console: FakeConsole, open_page: OpenPage, tab: str) -> Page:
    page: Page = await open_page(console.login_url, **ON_PHONE)
    await expect(page.locator(".card").first).to_be_visible()
    await page.goto(f"{console.url}#/vm/{console.first().vm_id}/{tab}")
    return page


async def test_a_finger_is_the_guests_pointer(console: FakeConsole, open_page: OpenPage) -> None:
    page = await opened(console, open_page, "screen")
    await shows_picture(page)
    box = await page.locator(".screen canvas").bounding_box()
    assert box is not None
    await page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    pointer = console.screens[-1].pointer
    await until(lambda: any(buttons == 1 for buttons, _, _ in pointer))
    _, x, y = next(event for event in pointer if event[0] == 1)
    assert abs(x - SIZE[0] / 2) <= 8
    assert abs(y - SIZE[1] / 2) <= 8


async def test_the_phones_keyboard_types_on_the_screen(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await opened(console, open_page, "screen")
    await shows_picture(page)
    screen = console.screens[-1]
    keys = page.get_by_role("toolbar", name="Keys for touch")
    await keys.get_by_role("button", name="Type").tap()
    await expect(page.get_by_label("Type into the guest")).to_be_focused()
    await page.keyboard.insert_text("ä€")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Backspace")
    await keys.get_by_role("button", name="Esc").tap()
    await keys.get_by_role("button", name="Up").tap()
    await keys.get_by_role("button", name="Ctrl").tap()
    await expect(page.get_by_label("Type into the guest")).to_be_focused()
    await page.keyboard.insert_text("c")
    # Ctrl is up again, but not before the key that it was for.
    typed = (ord("c"), False)
    await until(
        lambda: typed in screen.keys and (CONTROL, False) in screen.keys[screen.keys.index(typed) :]
    )
    down = [keysym for keysym, is_down in screen.keys if is_down]
    assert down == [0xE4, 0x010020AC, ENTER, BACKSPACE, ESCAPE, UP, CONTROL, ord("c")]
    await expect(keys.get_by_role("button", name="Ctrl")).to_have_attribute("aria-pressed", "false")
    assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    await keep(page, "phone-keys-dark")


async def test_the_terminal_takes_the_keys_that_a_phone_lacks(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await opened(console, open_page, "terminal")
    await expect(page.locator(".xterm-rows")).to_contain_text("line drawing")
    keys = page.get_by_role("toolbar", name="Keys for touch")
    await keys.get_by_role("button", name="Type").tap()
    await page.keyboard.type("ls")
    await keys.get_by_role("button", name="Tab").tap()
    await keys.get_by_role("button", name="Up").tap()
    await keys.get_by_role("button", name="Ctrl").tap()
    await page.keyboard.type("c")
    await keys.get_by_role("button", name="Alt").tap()
    await page.keyboard.type("b")
    await until(lambda: b"".join(console.typed) == b"ls\t\x1b[A\x03\x1bb")
    assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    await keep(page, "phone-terminal-dark")
