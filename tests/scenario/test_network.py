"""The installed node's network: cables, cards that come and go, names."""

from pathlib import Path

import pytest
from scenario.installation import BOOT_TIMEOUT_S, Installation
from scenario.machine import HOST_NAME
from scenario.remote import Remote

pytestmark = pytest.mark.timeout(3000)


def test_node_keeps_its_address_when_a_cable_is_pulled_and_after_a_boot_without_it(
    installation: Installation, short_tmp_path: Path
) -> None:
    with installation.machine(short_tmp_path) as machine:
        remote = Remote(machine, installation.key)
        remote.wait(timeout_s=BOOT_TIMEOUT_S)
        assert remote.until(f"hostname | grep {HOST_NAME}", timeout_s=120)
        machine.console.expect(f"{HOST_NAME} login: ", timeout_s=600)
        look = "cat /sys/class/net/br0/address; ip -4 -o address show br0 | cut -d' ' -f7"
        before = remote.run(look)
        leader = remote.run("cat /sys/class/net/bond0/bonding/active_slave").strip()
        names = remote.run("ls -d /sys/class/net/*/device/net/* | xargs -n1 basename").split()
        index = sorted(set(names)).index(leader)
        machine.set_cable(index, is_plugged=False)
        remote.until(f"! grep -q {leader} /sys/class/net/bond0/bonding/active_slave", timeout_s=120)
        assert remote.run(look) == before
        remote.call("systemctl reboot || true")
        machine.console.expect(r"Command line: ", timeout_s=300)
        machine.console.expect(r"Command line: ", timeout_s=300)
        remote.wait(timeout_s=BOOT_TIMEOUT_S)
        assert remote.run(look) == before
        assert remote.run("systemctl --failed --no-legend --plain") == ""
