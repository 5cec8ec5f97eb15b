"""The installed node's network: cables, cards that come and go, names."""

from pathlib import Path

import pytest
from scenario.installation import BOOT_TIMEOUT_S, Installation
from scenario.machine import HOST_NAME, Machine, Nic
from scenario.remote import Remote

pytestmark = pytest.mark.timeout(3000)

FAIL_OVER_TIMEOUT_S = 120

_ADDRESS = "cat /sys/class/net/br0/address; ip -4 -o address show br0 | cut -d' ' -f7"


def _leader(remote: Remote) -> str:
    """Return the MAC address of the NIC that the bond uses."""
    return remote.run(
        "cat /sys/class/net/$(cat /sys/class/net/bond0/bonding/active_slave)"
        "/bonding_slave/perm_hwaddr"
    ).strip()


def _wait_for_leader(remote: Remote, mac: str) -> None:
    remote.until(
        "grep -q " + mac + " /sys/class/net/$(cat /sys/class/net/bond0/bonding/active_slave)"
        "/bonding_slave/perm_hwaddr",
        timeout_s=FAIL_OVER_TIMEOUT_S,
    )


def _plug(machine: Machine, mac: str, *, is_plugged: bool) -> None:
    """Plug or pull the cable of the NIC with this address."""
    index = [nic.mac for nic in machine.hardware.nics].index(mac)
    machine.set_cable(index, is_plugged=is_plugged)


def test_node_keeps_its_address_when_a_cable_is_pulled_and_after_a_boot_without_it(
    installation: Installation, short_tmp_path: Path
) -> None:
    with installation.machine(short_tmp_path) as machine:
        remote = Remote(machine, installation.key)
        remote.wait(timeout_s=BOOT_TIMEOUT_S)
        assert remote.until(f"hostname | grep {HOST_NAME}", timeout_s=120)
        machine.console.expect(f"{HOST_NAME} login: ", timeout_s=600)
        before = remote.run(_ADDRESS)
        leader = _leader(remote)
        (other,) = {nic.mac for nic in machine.hardware.nics} - {leader}
        _plug(machine, leader, is_plugged=False)
        _wait_for_leader(remote, other)
        assert remote.run(_ADDRESS) == before
        remote.restart(timeout_s=BOOT_TIMEOUT_S)
        _wait_for_leader(remote, other)
        assert remote.run(_ADDRESS) == before
        remote.wait_for_boot(timeout_s=BOOT_TIMEOUT_S)
        assert remote.run("systemctl --failed --no-legend --plain") == ""


def test_faster_nic_leads_though_a_slower_one_comes_first(
    installation: Installation, short_tmp_path: Path
) -> None:
    slow = Nic(mac="52:54:00:0a:00:01", speed_mbit=1000)
    fast = Nic(mac="52:54:00:0a:00:02", speed_mbit=10_000)
    with installation.machine(short_tmp_path, nics=[slow, fast]) as machine:
        remote = Remote(machine, installation.key)
        remote.wait(timeout_s=BOOT_TIMEOUT_S)
        _wait_for_leader(remote, fast.mac)
        before = remote.run(_ADDRESS)
        # The node's address is the first card's, whichever leads.
        assert before.split() == [slow.mac, "10.0.2.15/24"]
        _plug(machine, fast.mac, is_plugged=False)
        _wait_for_leader(remote, slow.mac)
        assert remote.run(_ADDRESS) == before
        remote.restart(timeout_s=BOOT_TIMEOUT_S)
        _wait_for_leader(remote, slow.mac)
        assert remote.run(_ADDRESS) == before
        _plug(machine, fast.mac, is_plugged=True)
        _wait_for_leader(remote, fast.mac)
        assert remote.run(_ADDRESS) == before
