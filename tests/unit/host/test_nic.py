from pathlib import Path

from qemu_node.host.nic import own_mac


def test_a_card_in_a_bond_keeps_its_own_address(tmp_path: Path) -> None:
    (tmp_path / "address").write_text("52:54:00:00:00:01\n")
    assert own_mac(tmp_path) == "52:54:00:00:00:01"
    (tmp_path / "bonding_slave").mkdir()
    (tmp_path / "bonding_slave/perm_hwaddr").write_text("52:54:00:00:00:02\n")
    assert own_mac(tmp_path) == "52:54:00:00:00:02"


def test_a_card_that_is_gone_has_none(tmp_path: Path) -> None:
    assert own_mac(tmp_path / "none") == ""
