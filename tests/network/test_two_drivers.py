"""Two drivers on one node: the second one takes nothing from the VMs of the first."""

import pytest
from network.facts import set_elements, taps, wait_until
from network.lab import CONFIG, Lab, port_spec

from qemu_node.host.process.command import run_blocking
from qemu_node.net.errors import NetworkOwnedError
from qemu_node.net.filter import filtertable
from qemu_node.net.manager import PortManager

pytestmark = [pytest.mark.needs_vlans]


def test_what_another_driver_has_made_is_no_left_over(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As before nft 1.1 and Linux 6.10: nobody owns a table.
    monkeypatch.setattr(filtertable, "_FLAGS", "")
    lab.run(lab.manager.aclose())
    run_blocking(["nft", "delete", "table", "bridge", "qn"])
    lab.run(lab.manager.begin())
    lab.attach(port_spec("one", 1, vlan=30))
    before = taps(), set_elements(), lab.uplink_vlans()
    second = PortManager(CONFIG, identity="test")
    with pytest.raises(NetworkOwnedError):
        lab.run(second.reconcile([]))
    assert (taps(), set_elements(), lab.uplink_vlans()) == before
    lab.run(second.aclose())
    lab.detach("one")
    wait_until(lambda: taps() == [], "the TAP to go")


def test_vms_keep_their_network_when_their_driver_has_ended(lab: Lab) -> None:
    lab.attach(port_spec("one", 1, vlan=30))
    port = lab.ports["one"].port
    # Its TAP stays, as QEMU has it.
    lab.run(lab.manager.aclose())
    before = taps(), set_elements(), lab.uplink_vlans()
    second = PortManager(CONFIG, identity="another")
    with pytest.raises(NetworkOwnedError, match="data in test"):
        lab.run(second.reconcile([]))
    assert (taps(), set_elements(), lab.uplink_vlans()) == before
    lab.run(lab.manager.reconcile([port]))
    assert (taps(), set_elements(), lab.uplink_vlans()) == before
    lab.detach("one")
    wait_until(lambda: taps() == [], "the TAP to go")
    lab.run(lab.manager.aclose())
    lab.run(second.reconcile([]))
    lab.run(second.aclose())
