"""`make demo`, as a user runs it."""

import os
import re
from pathlib import Path

import pytest
from guests import cache

from qemu_node.host.process import command

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(1800)]


async def test_demo_boots_two_vms_under_secure_boot_and_ends_by_itself(
    debian_guest_image: Path,
) -> None:
    assert debian_guest_image.exists()
    done = await command.run(
        [str(cache.REPO / "scripts" / "demo.sh"), "--once"],
        env=dict(os.environ), timeout_s=1500, check=False,
    )  # fmt: skip
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, output + done.stderr.decode(errors="replace")
    ready = set(re.findall(r"(\S+): .*Secure Boot enabled", output))
    assert len(ready) == 2, output
