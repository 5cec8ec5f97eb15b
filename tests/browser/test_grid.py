"""The view of all VMs in a real browser."""

import gzip
from typing import Any

import pytest
from browser.conftest import PHONE, OpenPage, keep, until
from browser.fake_console import FakeConsole
from playwright.async_api import Page, expect

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

FIRST_VIEW_MAX_BYTES = 150_000


async def cards(page: Page) -> int:
    return await page.locator(".card").count()


async def test_link_logs_in_once_and_leaves_no_secret_in_the_address(
    console: FakeConsole, open_page: OpenPage
) -> None:
    url = console.login_url
    page = await open_page(url)
    await expect(page.locator(".card").first).to_be_visible()
    assert "link" not in page.url
    again = await open_page(url)
    await expect(again.get_by_role("alert").first).to_contain_text("link was used")
    await expect(again.locator(".card")).to_have_count(0)
    await keep(again, "login-refused")


async def test_only_pictures_in_view_are_fetched_of_500_vms(
    many: FakeConsole, open_page: OpenPage
) -> None:
    many.thumbnails.clear()
    many.sent.clear()
    page = await open_page(many.login_url)
    await until(lambda: len(many.thumbnails) >= 10)
    await expect(page.locator(".card canvas:not(.empty)").nth(9)).to_be_attached()
    assert await cards(page) == 500
    await keep(page, "grid-dark")
    # Twice more at least: answered without a picture.
    await until(lambda: max(many.thumbnails.values()) >= 2)
    assert 10 <= len(many.thumbnails) <= 40
    assert len(many.sent) == len(set(many.sent))


async def test_fresh_picture_is_asked_for_again_when_its_guest_wakes_up(
    console: FakeConsole, open_page: OpenPage
) -> None:
    quiet, other = [vm for vm in console.vms() if vm.state == "running" and not vm.viewers][:2]
    console.fresh_s[quiet.vm_id] = 3600
    console.change(quiet.vm_id, cpu_pct=1.0)
    await open_page(console.login_url)
    await until(lambda: console.thumbnails[other.vm_id] >= 3)
    assert console.thumbnails[quiet.vm_id] == 1
    console.change(quiet.vm_id, cpu_pct=60.0)
    await until(lambda: console.thumbnails[quiet.vm_id] == 2)


async def test_first_view_is_small(many: FakeConsole, open_page: OpenPage) -> None:
    sizes: dict[str, int] = {}
    page = await open_page("about:blank")

    async def note(response: Any) -> None:
        url = response.url.removeprefix(many.url)
        if not url.startswith("api/v1/events"):
            body = await response.body()
            is_packed = response.headers.get("content-encoding") == "gzip"
            sizes[url] = len(gzip.compress(body) if is_packed else body)

    pending: list[Any] = []
    page.on("response", lambda response: pending.append(response))
    await page.goto(many.login_url)
    await expect(page.locator(".card").first).to_be_visible()
    for response in pending:
        if "thumbnail" not in response.url:
            await note(response)
    assert any(url.endswith("main.mjs") for url in sizes)
    assert not any("novnc" in url or "xterm" in url for url in sizes)
    assert sum(sizes.values()) <= FIRST_VIEW_MAX_BYTES, sizes


async def test_search_filter_and_order_choose_what_is_shown(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await open_page(console.login_url)
    await expect(page.locator(".card").first).to_be_visible()
    await page.keyboard.press("/")
    await page.keyboard.type("redis 10.20.0.1")
    await expect(page.get_by_text("of 24 VMs")).to_contain_text("1 of 24")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="paused").click()
    count = sum(vm.state == "paused" for vm in console.vms())
    await expect(page.locator(".card")).to_have_count(count)
    await page.get_by_role("button", name="All 24").click()
    await page.get_by_label("Job", exact=False).first.select_option("ci/build-runner")
    await page.get_by_label("Order").select_option("cpu")
    await page.get_by_role("button", name="Table").click()
    rows = page.locator("tbody tr")
    wanted = [vm for vm in console.vms() if vm.job == "build-runner"]
    await expect(rows).to_have_count(len(wanted))
    busiest = max(wanted, key=lambda vm: vm.cpu_pct or 0)
    await expect(rows.first).to_contain_text(f"[{busiest.index}]")
    await keep(page, "table-dark")


async def test_keyboard_alone_leads_to_a_vm_and_back(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await open_page(console.login_url)
    await expect(page.locator(".card").first).to_be_visible()
    await page.keyboard.press("/")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("ArrowDown")
    focused = await page.evaluate("document.activeElement.getAttribute('href')")
    columns = await page.evaluate(
        "getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length"
    )
    shown = await page.locator(".card > a").nth(1 + columns).get_attribute("href")
    assert focused == shown
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("[")
    await page.get_by_role("link", name="All VMs", exact=True).focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(".card").first).to_be_visible()


async def test_phone_in_light_has_nothing_wider_than_itself(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await open_page(console.login_url, viewport=PHONE, color_scheme="light", has_touch=True)
    await expect(page.locator(".card canvas:not(.empty)").nth(1)).to_be_attached()
    assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    await keep(page, "phone-light")
    await page.locator(".card > a").first.click()
    await expect(page.locator(".screen canvas")).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    await keep(page, "phone-vm-light")


async def test_changes_arrive_by_themselves_and_text_of_guests_stays_text(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await open_page(console.login_url, color_scheme="light")
    vm = console.first()
    card = page.locator(f'.card:has(a[href*="{vm.vm_id}"])')
    await expect(card).to_be_visible()
    hostile = '<img src=x onerror="document.title=1">'
    console.change(vm.vm_id, host_name=hostile, addresses=(), job=hostile, cpu_pct=150.0)
    await expect(card).to_contain_text(hostile)
    await expect(card).to_contain_text("150 %")
    assert await page.locator("img").count() == 0
    console.end(vm.vm_id, "the guest's kernel panicked")
    await expect(card).to_contain_text("the guest's kernel panicked")
    await keep(page, "grid-light")


async def test_500_vms_in_the_table_follow_what_changes(
    many: FakeConsole, open_page: OpenPage
) -> None:
    page = await open_page(many.login_url)
    await page.get_by_role("button", name="Table").click()
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(500)
    await keep(page, "table-500-dark")
    await page.get_by_role("button", name="CPU").click()
    busiest = max(many.vms(), key=lambda vm: vm.cpu_pct or 0)
    await expect(rows.first).to_contain_text(f"{busiest.job}[{busiest.index}]")
    many.change(busiest.vm_id, cpu_pct=0.5)
    await expect(rows.first).not_to_contain_text(f"{busiest.job}[{busiest.index}]")
    many.change(busiest.vm_id, cpu_pct=busiest.cpu_pct)
    # By keys: from the search into the table, and to a VM.
    await page.keyboard.press("/")
    await page.keyboard.type("postgres[7]")
    await expect(rows).to_have_count(1)
    await page.keyboard.press("Enter")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("postgres[7]")
