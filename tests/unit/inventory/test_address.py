from pathlib import Path

from fakes.published import make_record

from qemu_node.config.node import Paths
from qemu_node.inventory.address import reachable_address


def test_forwarded_ports_come_before_the_guests_own_address(tmp_path: Path) -> None:
    paths = Paths(run=str(tmp_path / "r"), data=str(tmp_path / "d"))
    record = make_record(paths)
    assert reachable_address(record, ["10.0.2.15"]) == "127.0.0.1:20080 → 80"
    bridged = make_record(paths, nics=())
    assert reachable_address(bridged, ["10.1.2.3", "10.4.5.6"]) == "10.1.2.3"
    assert reachable_address(bridged) == ""
