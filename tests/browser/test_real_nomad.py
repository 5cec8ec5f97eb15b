"""The page before a real Nomad with ACLs, its driver and a VM: every login, consoles of two nodes.

The second console is that of a node without VMs: it knows the VM from Nomad alone.
"""

import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from browser.conftest import TIMEOUT_MS, OpenPage, is_connected, keep
from e2e.acl_cases import policy_text
from e2e.console_daemon import ConsoleDaemon, web_settings, write_settings
from e2e.nomad_agent import NomadAgent, free_ports
from e2e.nomad_node import VM_JOB, Node, running_agent
from e2e.oidc_provider import auth_method, binding_rule, running_provider
from playwright.async_api import Page, expect

from qemu_node.web.access.login.oidc import callback_of

pytestmark = [
    pytest.mark.needs_nomad,
    pytest.mark.needs_root,
    pytest.mark.needs_qemu,
    pytest.mark.timeout(1800),
    pytest.mark.asyncio(loop_scope="module"),
]

BOOT_MS = 4 * TIMEOUT_MS
READY = "small guest ready"
WRITE, LOOK = 'policy = "write"', 'capabilities = ["list-jobs", "read-job", "read-logs"]'
NODE = 'node { policy = "read" }'


@dataclass
class Cluster:
    """A Nomad, the console of its node, and that of a node without VMs."""

    agent: NomadAgent
    here: ConsoleDaemon
    other: ConsoleDaemon
    alloc_id: str
    root: Path

    async def token(self, name: str, **members: Any) -> Any:
        """Return a new token of a user."""
        body = {"Name": name, "Type": "client"} | members
        return await self.agent.post("/v1/acl/token", body)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(small_guest_image: Path) -> AsyncIterator[Cluster]:
    root = Path(tempfile.mkdtemp(prefix="qn-", dir="/tmp"))
    root.chmod(0o711)
    port, other_port = free_ports(2)
    node = Node(root, small_guest_image, more=web_settings(port))
    (root / "o").mkdir()
    try:
        async with running_agent(node, has_acls=True) as agent:
            for name, rules in (
                ("write", policy_text({"default": WRITE}, NODE)),
                ("look", policy_text({"default": LOOK})),
            ):
                await agent.post(f"/v1/acl/policy/{name}", {"Name": name, "Rules": rules})
            job = await agent.run_job(VM_JOB.format(image=small_guest_image))
            (allocation,) = await agent.running_allocations(job)
            here = ConsoleDaemon(root / "c", node.node_toml, port, agent.address)
            settings = write_settings(root / "o", other_port)
            other = ConsoleDaemon(root / "o", settings, other_port, agent.address, "localhost")
            try:
                await here.start()
                await other.start()
                yield Cluster(agent, here, other, allocation["ID"], root)
            finally:
                await here.stop()
                await other.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)


async def log_in(page: Page, token: str) -> None:
    await page.get_by_label("Nomad token").fill(token)
    await page.get_by_role("button", name="Log in", exact=True).click()


async def test_a_token_opens_the_page_and_a_wrong_one_does_not(
    cluster: Cluster, open_page: OpenPage
) -> None:
    token = (await cluster.token("anna", Policies=["write"]))["SecretID"]
    page = await open_page(cluster.here.address, ignore_https_errors=True)
    await expect(page.get_by_label("Nomad token")).to_be_focused()
    await keep(page, "login-dark")
    await log_in(page, "00000000-0000-0000-0000-000000000000")
    await expect(page.get_by_role("alert")).to_be_visible()
    await keep(page, "login-wrong-dark")
    await log_in(page, token)
    await expect(page.locator(".card")).to_have_count(1)
    await expect(page.locator(".who")).to_contain_text("anna")
    await keep(page, "nomad-grid")
    assert token not in await page.content()
    stored = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    assert token not in await page.evaluate(stored)
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_label("Nomad token")).to_be_visible()


async def test_a_one_time_token_in_the_address_counts_once(
    cluster: Cluster, open_page: OpenPage
) -> None:
    made = await cluster.agent.post("/v1/acl/token/onetime", {})
    ott = made["OneTimeToken"]["OneTimeSecretID"]
    url = f"{cluster.here.address}/#ott={ott}&to=/alloc/{cluster.alloc_id[:8]}"
    page = await open_page(url, ignore_https_errors=True)
    await expect(page.get_by_role("heading", level=1)).to_contain_text("web")
    assert ott not in page.url
    again = await open_page(url, ignore_https_errors=True)
    await expect(again.get_by_role("alert")).to_contain_text("one-time token")


async def test_a_provider_leads_back_to_the_place_that_was_asked_for(
    cluster: Cluster, open_page: OpenPage, tmp_path: Path
) -> None:
    async with running_provider(tmp_path) as provider:
        method = auth_method(provider, callback_of(cluster.here.address))
        await cluster.agent.post("/v1/acl/auth-method", method)
        await cluster.agent.post("/v1/acl/binding-rule", binding_rule("write"))
        # The console asks Nomad for its ways in every few seconds.
        page = await open_page(
            f"{cluster.here.address}/#/alloc/{cluster.alloc_id}", ignore_https_errors=True
        )
        button = page.get_by_role("button", name="company")
        while not await button.count():
            await page.reload()
            await expect(page.get_by_label("Nomad token")).to_be_visible()
            await page.wait_for_timeout(500)
        await keep(page, "login-oidc-dark")
        await button.click()
        await expect(page.get_by_role("heading", level=1)).to_contain_text("web")
        assert page.url.startswith(f"{cluster.here.address}/#/vm/vm-")
        await cluster.agent.delete("/v1/acl/auth-method/company")


async def test_a_vm_of_another_node_opens_without_a_second_login(
    cluster: Cluster, open_page: OpenPage
) -> None:
    token = (await cluster.token("bob", Policies=["write"]))["SecretID"]
    page = await open_page(cluster.other.address, ignore_https_errors=True)
    await log_in(page, token)
    await expect(page.get_by_text("No VM on this node")).to_be_visible()
    await page.get_by_role("link", name="Cluster").click()
    await expect(page.get_by_role("row", name="lab ready healthy")).to_be_visible()
    await keep(page, "nomad-cluster-dark")
    async with page.expect_popup() as opening:
        await page.get_by_role("button", name="Open web.g[0] on lab").click()
    popup = await opening.value
    popup.set_default_timeout(TIMEOUT_MS)
    await expect(popup.get_by_role("heading", level=1)).to_contain_text("web")
    await expect(popup.locator(".who")).to_contain_text("bob")
    assert popup.url.startswith(f"{cluster.here.address}/#/vm/vm-")
    await is_connected(popup)
    assert await popup.evaluate("window.opener") is None


async def test_who_may_only_look_has_no_buttons_and_a_removed_token_ends_the_session(
    cluster: Cluster, open_page: OpenPage
) -> None:
    made = await cluster.token("eve", Policies=["look"])
    page = await open_page(
        f"{cluster.here.address}/#/alloc/{cluster.alloc_id}", ignore_https_errors=True
    )
    await log_in(page, made["SecretID"])
    await is_connected(page)
    for name in ("Power", "Keys", "Paste as keys"):
        await expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
    await expect(page.get_by_role("link", name="Node", exact=True)).to_have_count(0)
    await keep(page, "nomad-look-only")
    await page.get_by_role("link", name="Terminal").click()
    await expect(page.locator(".xterm-rows")).to_contain_text(READY, timeout=BOOT_MS)
    await cluster.agent.delete(f"/v1/acl/token/{made['AccessorID']}")
    await expect(page.get_by_role("alert")).to_contain_text("Your session has ended")
    await keep(page, "nomad-session-over")


async def test_a_daemon_that_comes_back_finds_its_user_where_he_was(
    cluster: Cluster, open_page: OpenPage
) -> None:
    token = (await cluster.token("anna", Policies=["write"]))["SecretID"]
    page = await open_page(
        f"{cluster.here.address}/#/alloc/{cluster.alloc_id}", ignore_https_errors=True
    )
    await log_in(page, token)
    await is_connected(page)
    await cluster.here.stop()
    await expect(page.locator(".lost").first).to_be_visible()
    await keep(page, "nomad-daemon-lost")
    await cluster.here.start()
    await log_in(page, token)
    await is_connected(page)
    assert page.url.startswith(f"{cluster.here.address}/#/vm/vm-")


async def test_a_vm_is_restarted_and_stopped_through_nomad(
    cluster: Cluster, open_page: OpenPage
) -> None:
    token = (await cluster.token("anna", Policies=["write"]))["SecretID"]
    page = await open_page(
        f"{cluster.here.address}/#/alloc/{cluster.alloc_id}", ignore_https_errors=True
    )
    await log_in(page, token)
    await page.get_by_role("link", name="Terminal").click()
    rows = page.locator(".xterm-rows")
    await expect(rows).to_contain_text(READY, timeout=BOOT_MS)

    async def press(name: str) -> None:
        await page.get_by_role("button", name="Power").click()
        await page.get_by_role("menuitem", name=name).click()
        await page.get_by_role("dialog").get_by_role("button", name=name).click()

    await press("Restart by Nomad")
    await expect(page.locator(".vm-head .state")).to_have_text(
        re.compile("ended|failed|starting"), timeout=BOOT_MS
    )
    await expect(page.locator(".vm-head .state")).to_have_text("running", timeout=BOOT_MS)
    await page.get_by_role("link", name="Events").click()
    await expect(page.locator(".events")).to_contain_text("Restart Signaled")
    await keep(page, "nomad-events")
    await page.get_by_role("link", name="Terminal").click()
    await press("Stop")
    await expect(page.locator(".ending")).to_be_visible(timeout=BOOT_MS)
    await expect(rows).to_contain_text(READY)
    await keep(page, "nomad-stopped")
    # Its job goes on: Nomad has placed another one.
    await page.get_by_role("link", name="All VMs", exact=True).click()
    await expect(page.locator(".card:not(.is-over)")).to_have_count(1, timeout=BOOT_MS)
    await page.reload()
    await page.locator(".card.is-over > a").click()
    await page.get_by_role("link", name="Terminal").click()
    await expect(rows).to_contain_text(READY)
    await expect(page.locator(".ending")).to_contain_text("The VM has")
    await keep(page, "nomad-ended-terminal")
