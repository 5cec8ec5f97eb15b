"""`make demo`, as a user runs it."""

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest
from aiohttp import ClientSession, CookieJar
from guests import cache

from qemu_node.host.process import pidfd
from qemu_node.host.process.command import spawn

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(1800)]

_LINK = re.compile(r"(http://127\.0\.0\.1:\d+)/#link=(\S+)")


async def test_demo_boots_two_vms_under_secure_boot_and_ends_with_a_link_to_the_console(
    debian_guest_image: Path, tmp_path: Path
) -> None:
    assert debian_guest_image.exists()
    script = str(cache.REPO / "scripts" / "demo.sh")
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        demo = spawn([script], stdout_fd=out.fileno(), stderr_fd=err.fileno(), env=dict(os.environ))

    def said() -> str:
        return (tmp_path / "out").read_text(errors="replace")

    def links() -> list[tuple[str, str]]:
        return _LINK.findall((tmp_path / "err").read_text(errors="replace"))

    try:
        async with asyncio.timeout(1500):
            while len(set(re.findall(r"(\S+): .*Secure Boot enabled", said()))) < 2:
                assert demo.exit_status() is None, said()
                await asyncio.sleep(1)
            while len(links()) < 2:
                await asyncio.sleep(0.1)
        url, link = links()[-1]
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as browser:
            body, headers = {"link": link}, {"X-QN": "1"}
            async with browser.post(f"{url}/api/v1/login", json=body, headers=headers) as reply:
                assert reply.status == 200, await reply.text()
            async with browser.get(f"{url}/api/v1/vms") as reply:
                vms = (await reply.json())["vms"]
        assert len(vms) == 2
        assert {vm["state"] for vm in vms} == {"running"}
        # As Ctrl-C of a terminal does.
        os.killpg(demo.process.pid, signal.SIGINT)
        async with asyncio.timeout(300):
            await pidfd.wait_gone(demo.process)
        assert demo.exit_status() == 0, said()
    finally:
        demo.kill_group()
