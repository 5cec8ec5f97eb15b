"""The page of one VM in a real browser: screen, terminal, buttons, and what happens to them."""

import pytest
from browser.conftest import OpenPage, keep, shows_picture, until
from browser.fake_console import FakeConsole, running_console
from playwright.async_api import Page, expect

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

CONTROL, ALT, DELETE, SHIFT = 0xFFE3, 0xFFE9, 0xFFFF, 0xFFE1


async def opened(console: FakeConsole, open_page: OpenPage, tab: str, **options: object) -> Page:
    page: Page = await open_page(console.login_url, **options)
    await expect(page.locator(".card").first).to_be_visible()
    await page.goto(f"{console.url}#/vm/{console.first().vm_id}/{tab}")
    return page


async def test_screen_shows_pixels_and_takes_keys(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await opened(console, open_page, "screen")
    await shows_picture(page)
    await page.locator(".screen canvas").click()
    await page.keyboard.type("a")
    screen = console.screens[-1]
    await until(lambda: (0x61, False) in screen.keys)
    await page.get_by_role("button", name="Ctrl+Alt+Del").click()
    await until(lambda: (DELETE, False) in screen.keys)
    down = [keysym for keysym, is_down in screen.keys if is_down]
    assert down == [0x61, CONTROL, ALT, DELETE]
    await keep(page, "vm-screen-dark")


async def test_keys_are_released_when_the_window_loses_the_focus(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await opened(console, open_page, "screen")
    await shows_picture(page)
    await page.locator(".screen canvas").click()
    screen = console.screens[-1]
    await page.keyboard.down("Control")
    await until(lambda: (CONTROL, True) in screen.keys)
    await page.evaluate("window.dispatchEvent(new Event('blur'))")
    await until(lambda: (CONTROL, False) in screen.keys)
    # The key-down that comes after the blur: nobody would ever send its end.
    count = len(screen.keys)
    await page.evaluate(
        """document.hasFocus = () => false;
        document.querySelector('.screen canvas').dispatchEvent(new KeyboardEvent('keydown',
            {key: 'Control', code: 'ControlLeft', ctrlKey: true, bubbles: true}));
        delete document.hasFocus;"""
    )
    await page.keyboard.up("Control")
    await page.keyboard.press("b")
    await until(lambda: (0x62, False) in screen.keys)
    assert (CONTROL, True) not in screen.keys[count:]


async def test_terminal_shows_the_log_echoes_and_answers_no_query_of_the_past(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await opened(console, open_page, "terminal")
    rows = page.locator(".xterm-rows")
    await expect(rows).to_contain_text("Multi-User System")
    await expect(rows).to_contain_text("line drawing: ──")
    assert await page.locator("img").count() == 0
    await page.locator(".tty").click()
    await page.keyboard.type("uname -a")
    await page.keyboard.press("Enter")
    await expect(rows).to_contain_text("# uname -a")
    assert b"".join(console.typed) == b"uname -a\r"
    await keep(page, "vm-terminal-dark")
    # Several lines are asked for; one is not.
    await page.evaluate(
        """() => {
            const clipboardData = new DataTransfer();
            clipboardData.setData('text/plain', 'one\\ntwo');
            document.querySelector('.xterm-helper-textarea').dispatchEvent(
                new ClipboardEvent('paste', {clipboardData, bubbles: true, cancelable: true}));
        }"""
    )
    await page.get_by_role("button", name="Paste", exact=True).click()
    await expect(rows).to_contain_text("two")


async def test_paste_shows_progress_and_can_be_aborted(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await opened(console, open_page, "screen")
    text = "Größe: 100 % [x] {y}\n" * 90
    await page.get_by_role("button", name="Paste as keys").click()
    await page.get_by_label("The text is typed").fill(text)
    await page.get_by_label("The guest's keyboard").select_option("de")
    await page.get_by_role("button", name="Type it").click()
    await expect(page.get_by_text("characters were typed")).to_be_visible()
    assert console.pasted == [text]
    console.paste_step = 1
    await page.get_by_role("button", name="Paste as keys").click()
    await page.get_by_label("The text is typed").fill(text)
    await page.get_by_role("button", name="Type it").click()
    await page.get_by_role("button", name="Abort").click()
    await expect(page.get_by_role("alert")).to_contain_text("was aborted")


async def test_reset_is_asked_first(console: FakeConsole, open_page: OpenPage) -> None:
    page = await opened(console, open_page, "log")
    await expect(page.locator("pre")).to_contain_text("Reached target Multi-User System")
    await page.get_by_role("button", name="Power").click()
    await page.get_by_role("menuitem", name="Reset").click()
    assert console.pressed == []
    await page.get_by_role("button", name="Reset").click()
    await expect(page.get_by_text("it was asked for")).to_be_visible()
    assert console.pressed == [f"reset {console.first().vm_id}"]


async def test_end_is_explained_with_the_last_picture(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await opened(console, open_page, "screen")
    await shows_picture(page)
    console.end(console.first().vm_id, "the guest's kernel panicked")
    await expect(page.locator(".veil")).to_contain_text("the guest's kernel panicked")
    await expect(page.locator(".veil canvas:not(.empty)")).to_be_visible()
    await keep(page, "vm-ended-dark")


async def test_page_comes_back_by_itself_after_the_console_was_lost(
    open_page: OpenPage, tmp_path_factory: object
) -> None:
    directory = tmp_path_factory.mktemp("lost")  # type: ignore[attr-defined]
    async with running_console(directory, vms=8) as console:
        page = await opened(console, open_page, "screen")
        await shows_picture(page)
        port = console.port
    await expect(page.locator(".lost").first).to_be_visible()
    await keep(page, "lost-dark")
    async with running_console(directory, vms=8, port=port) as console:
        # Its sessions have ended with it.
        await expect(page.locator(".login")).to_be_visible()
        await page.goto("about:blank")
        await page.goto(console.login_url)
        await expect(page.locator(".card")).to_have_count(8)


async def test_loss_of_the_network_ends_by_itself(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await opened(console, open_page, "screen")
    await shows_picture(page)
    for screen in list(console.screens):
        screen.socket.end(4503, "QEMU's screen cannot be reached")
    await until(lambda: len(console.screens) == 2)
    await shows_picture(page)
    await expect(page.locator(".veil")).to_have_count(0)
