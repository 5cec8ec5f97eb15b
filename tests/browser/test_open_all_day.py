"""What a page that is open all day meets: lost networks, many pages, other users and rights."""

import pytest
from browser.conftest import OpenPage, until
from browser.fake_console import FakeConsole
from playwright.async_api import Page, Request, Route, expect

from qemu_node.web.access.acl.nomadacl import Acl

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAM = "/api/v1/events"
HIDDEN = "Object.defineProperty(Document.prototype, 'hidden', {get: () => true})"
PAUSES = """async (openMs) => {
  const path = document.querySelector('script').src.replace('main', 'socket');
  const { nextAttempt } = await import(path);
  const pauses = [];
  let attempt = 0;
  for (const open of openMs) {
    const next = nextAttempt(attempt, open);
    attempt = next.attempt;
    pauses.push(next.pauseMs);
  }
  return pauses;
}"""
ATTEMPTS = """async () => {
  const path = document.querySelector('script').src.replace('main', 'socket');
  const { Connection } = await import(path);
  const real = window.WebSocket;
  const made = [];
  window.WebSocket = class extends EventTarget {
    constructor() { super(); made.push(this); }
    send() {}
    close() {}
  };
  const attach = () => null;
  const connection = new Connection({ vmId: 'a', kind: 'screen', mode: 'view', attach });
  for (let lost = 0; lost < 3; lost += 1) {
    connection.connect('ticket');
    made[lost].onmessage({ data: 'ok' });
    made[lost].dispatchEvent(Object.assign(new Event('close'), { code: 1011, reason: 'lost' }));
  }
  connection.close();
  window.WebSocket = real;
  return connection.attempt;
}"""
LOG_IN = """async (link) => {
  const session = await import(document.querySelector('script').src.replace('main', 'session'));
  await session.logIn({link});
}"""


async def at(console: FakeConsole, open_page: OpenPage, place: str) -> Page:
    page: Page = await open_page(console.login_url)
    await expect(page.locator(".card").first).to_be_visible()
    await page.goto(f"{console.url}#/vm/{console.first().vm_id}/{place}")
    return page


async def test_a_stream_on_which_nothing_comes_is_opened_again(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await open_page("about:blank")
    await page.clock.install()
    streams: list[str] = []

    def note(request: Request) -> None:
        if STREAM in request.url:
            streams.append(request.url)

    page.on("request", note)
    await page.goto(console.login_url)
    await expect(page.locator(".card").first).to_be_visible()
    assert len(streams) == 1
    # As after a network that went without a word: the console says nothing for that long.
    await page.clock.fast_forward(46_000)
    await page.clock.run_for(1000)
    await until(lambda: len(streams) == 2)
    await expect(page.locator(".live.live")).to_be_visible()


async def test_pages_that_nobody_sees_leave_connections_to_the_one_that_somebody_sees(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await open_page(console.login_url)
    await expect(page.locator(".card").first).to_be_visible()
    for _ in range(6):
        hidden = await page.context.new_page()
        await hidden.add_init_script(HIDDEN)
        await hidden.goto(console.url)
        await expect(hidden.locator("header.top")).to_be_attached()
    seen = await page.context.new_page()
    await seen.goto(console.url)
    await expect(seen.locator(".card").first).to_be_visible()


async def test_the_next_user_sees_no_pictures_of_the_one_before(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await open_page(console.login_url)
    await expect(page.locator(".card canvas:not(.empty)").first).to_be_visible()

    async def refuse(route: Route) -> None:
        await route.fulfill(status=403, json={"error": "forbidden", "message": "no"})

    await page.route("**/thumbnail", refuse)
    await page.get_by_role("button", name="Log out").click()
    await expect(page.locator(".login")).to_be_visible()
    await page.evaluate(LOG_IN, console.access.door.make_link())
    await expect(page.locator(".card").first).to_be_visible()
    await expect(page.locator(".card canvas:not(.empty)")).to_have_count(0)


async def test_a_question_without_an_answer_is_not_asked_again_and_again(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await open_page("about:blank")
    await page.clock.install()
    asked: list[Route] = []

    async def keep_waiting(route: Route) -> None:
        asked.append(route)

    await page.route("**/log?*", keep_waiting)
    await page.goto(console.login_url)
    await expect(page.locator(".card").first).to_be_visible()
    await page.goto(f"{console.url}#/vm/{console.first().vm_id}/log")
    await until(lambda: asked)
    for _ in range(4):
        await page.clock.fast_forward(6000)
    assert len(asked) == 1
    await asked[0].fulfill(body="the last words")
    await expect(page.locator("pre.log")).to_contain_text("the last words")
    await page.clock.fast_forward(6000)
    await until(lambda: len(asked) == 2)


async def test_a_screen_that_is_lost_at_once_is_opened_ever_more_rarely(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await open_page(console.login_url)
    await expect(page.locator(".card").first).to_be_visible()
    assert await page.evaluate(ATTEMPTS) == 3
    lost_at_once = [0, 50, 50, 50, 50, 50, 50]
    assert await page.evaluate(PAUSES, lost_at_once) == [
        300, 1000, 2000, 4000, 8000, 15_000, 15_000,
    ]  # fmt: skip
    assert await page.evaluate(PAUSES, [50, 50, 60_000, 50]) == [300, 1000, 300, 1000]


async def test_a_terminal_in_another_mode_leaves_nothing_of_the_one_before(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await at(console, open_page, "terminal")
    await expect(page.locator(".xterm-rows")).to_contain_text("Multi-User")
    for _ in range(2):
        await page.get_by_role("button", name="View only").click()
        await expect(page.locator(".xterm-rows")).to_contain_text("Multi-User")
    browser = await page.context.new_cdp_session(page)
    found = await browser.send("Runtime.evaluate", {"expression": "document.querySelector('.tty')"})
    listeners = await browser.send(
        "DOMDebugger.getEventListeners", {"objectId": found["result"]["objectId"]}
    )
    assert [each["type"] for each in listeners["listeners"]].count("paste") == 1


async def test_a_browser_that_takes_no_cookie_does_not_log_in_for_ever(
    console: FakeConsole, open_page: OpenPage
) -> None:
    page = await open_page("about:blank")
    logins: list[str] = []

    async def answer(route: Route) -> None:
        if route.request.method == "POST":
            logins.append(route.request.url)
            await route.fulfill(json={"name": "anybody"})
        else:
            await route.fulfill(json={"ways": ["open"]})

    async def refuse(route: Route) -> None:
        await route.fulfill(status=401, json={"error": "not-logged-in", "message": "nobody"})

    await page.route("**/api/v1/login", answer)
    await page.route("**/api/v1/session", refuse)
    await page.route(f"**{STREAM}", refuse)
    await page.goto(console.url)
    await expect(page.get_by_role("button", name="Enter")).to_be_visible()
    await page.wait_for_load_state("networkidle")
    assert len(logins) == 1


async def test_buttons_follow_rights_that_change(console: FakeConsole, open_page: OpenPage) -> None:
    page = await at(console, open_page, "log")
    power = page.get_by_role("button", name="Power")
    await expect(power).to_be_visible()
    vm = console.first()
    (session,) = console.access.sessions.all()
    session.acl = Acl(namespaces={vm.namespace: frozenset({"read-job", "read-logs"})})
    console.change(vm.vm_id, host_name="renamed")
    await expect(power).to_have_count(0)
    session.acl = Acl(
        namespaces={vm.namespace: frozenset({"read-job", "read-logs", "alloc-lifecycle"})}
    )
    console.change(vm.vm_id, host_name="renamed again")
    await expect(power).to_be_visible()
