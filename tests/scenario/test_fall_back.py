"""Bad upgrades: the node goes back by itself, stays back, and takes the next image."""

import pytest
from scenario.installation import BOOT_TIMEOUT_S
from scenario.upgrading import Upgradable

from qemu_node.host.process.command import ProcessError

pytestmark = pytest.mark.timeout(6000)

FALL_BACK_TIMEOUT_S = 3000

_CHECK = "usr/libexec/elemental-checker/60-test"
_FAILS = '#!/bin/sh\n[ "$1" = check ] || exit 0\nexit 1\n'
_HANGS = '#!/bin/sh\n[ "$1" = check ] || exit 0\ntrap "" TERM\nwhile :; do sleep 60; done\n'
# Two checks that hang take as long as both limits together.
_SHORT = "usr/lib/systemd/system/elemental-boot-assessment.service.d/60-test.conf"
_LIMIT = "[Service]\nTimeoutStartSec=60\n"


@pytest.mark.parametrize("check", [_FAILS, _HANGS], ids=["fails", "hangs"])
def test_node_goes_back_by_itself_and_stays_back(
    node: Upgradable, check: str, request: pytest.FixtureRequest
) -> None:
    old, name = node.tag, f"bad-{request.node.callspec.id}"
    bad = node.publish(name, {_CHECK: (0o755, check), _SHORT: (0o644, _LIMIT)})
    node.upgrade(bad)
    # What did not come up before is nothing to go back to.
    assert list(node.fall_back_targets().values()) == [old]
    node.restart()
    # Of the bad image there may be several boots; the last kernel is the old image's.
    node.machine.console.expect(
        r"Command line: .*elemental\.image=\S*snapshot", timeout_s=FALL_BACK_TIMEOUT_S
    )
    node.remote.until(f'. /etc/os-release; test "$IMAGE_TAG" = {old}', timeout_s=BOOT_TIMEOUT_S)
    node.wait_until_settled()
    assert name in node.remote.run("qemu-node os refused")
    node.restart()
    assert (node.tag, node.mode) == (old, "active_mode")
    assert node.fall_back_targets() == {}
    with pytest.raises(ProcessError, match="did not pass"):
        node.upgrade(bad)
