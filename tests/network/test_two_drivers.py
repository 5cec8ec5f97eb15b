"""Two drivers on one node: the second one takes nothing from the VMs of the first."""

import pytest
from network.facts import set_elements, taps, wait_until
from network.lab import CONFIG, Lab, port_spec

from qemu_node.host.process import run_blocking
from qemu_node.net import table
from qemu_node.net.errors import NetworkOwnedError
from qemu_node.net.ports import PortManager

pytestmark = [pytest.mark.needs_vlans]


def test_what_another_driver_has_made_is_no_left_over(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As before nft 1.1 and Linux 6.10: nobody owns a table.
    monkeypatch.setattr(table, "_FLAGS", "")
    lab.run(lab.manager.aclose())
    run_blocking(["nft", "delete", "table", "bridge", "qn"])
    lab.run(lab.manager.begin())
    lab.attach(port_spec("one", 1, vlan=30))
    before = taps(), set_elements(), lab.uplink_vlans()
    second = PortManager(CONFIG)
    with pytest.raises(NetworkOwnedError):
        lab.run(second.reconcile([]))
    assert (taps(), set_elements(), lab.uplink_vlans()) == before
    lab.run(second.aclose())
    lab.detach("one")
    wait_until(lambda: taps() == [], "the TAP to go")
