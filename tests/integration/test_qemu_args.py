"""The devices that a job can be allowed, as the installed QEMU describes them."""

import re

import pytest

from qemu_node.config.node import QemuConfig
from qemu_node.host.process.command import run
from qemu_node.qemu.argtables import DEVICES, PROPERTIES

pytestmark = pytest.mark.needs_qemu

_TEXT_OR_OBJECT = re.compile(r"^ *([\w-]+)=<(?:str|link|[^>]*(?:drive|chardev|netdev|fd))")
_HARMLESS = {"addr", "audiodev", "display", "osk", "port", "serial"}
"""Properties with text in them: ids of devices, places on a bus, what the guest reads."""


@pytest.mark.parametrize("device", sorted(DEVICES))
async def test_no_property_of_a_device_that_can_be_allowed_names_something_of_the_host(
    device: str,
) -> None:
    done = await run([QemuConfig().binary, "-device", f"{device},help"], check=False)
    if done.returncode:
        pytest.skip(f"this QEMU has no {device}")
    named = {m[1] for m in map(_TEXT_OR_OBJECT.match, done.stdout.decode().splitlines()) if m}
    assert named & PROPERTIES <= _HARMLESS
