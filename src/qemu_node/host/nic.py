"""Network cards as /sys shows them: which address is a card's own."""

from pathlib import Path

from qemu_node.host.files.reading import read_or_empty


def own_mac(link: Path) -> str:
    """Return the MAC address of a card, given by its directory below /sys/class/net.

    A bond gives all its ports one address, and keeps their own ones beside.
    """
    return read_or_empty(link / "bonding_slave/perm_hwaddr") or read_or_empty(link / "address")
