"""Machines for the tests of the uplink: trees as /sys is, and NICs."""

from pathlib import Path
from typing import Any

from qemu_node.nodeos.uplink.nics import Function, Machine, Nic

MAC1, MAC2, MAC3 = "52:54:00:0a:00:01", "52:54:00:0a:00:02", "52:54:00:0a:00:03"


def nic(number: int, **settings: Any) -> Nic:
    """Return the NIC in slot `number`, with the address that ends with it."""
    defaults = {
        "name": f"enp{number}s0",
        "mac": f"52:54:00:0a:00:{number:02x}",
        "place": f"pci0000:00/0000:00:{number:02x}.0/0000:{number:02x}:00.0/0",
    }
    return Nic(**(defaults | settings))


def machine(*nics: Nic, late: tuple[int, ...] = (), has_driver: bool = True) -> Machine:
    """Return a machine with these NICs, and controllers in the slots `late` that have none yet."""
    ready = [Function(place=one.place.rpartition("/")[0], has_nic=True) for one in nics if one.pci]
    waiting = [
        Function(place=nic(number).place.rpartition("/")[0], has_driver=has_driver)
        for number in late
    ]
    return Machine(nics=nics, functions=(*ready, *waiting))


class Tree:
    """A root directory with a /sys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._devices = root / "sys/devices"
        for name in ("sys/class/net", "sys/bus/pci/devices", "sys/devices", "proc/self"):
            (root / name).mkdir(parents=True)
        (root / "proc/self/mountinfo").write_text("21 1 0:20 / / rw - ext4 /dev/sda rw\n")

    def add_function(
        self, number: int, *, driver: str = "", class_: str = "0x020000", is_virtual: bool = False
    ) -> Path:
        """Add a PCI function in slot `number`; return its directory."""
        address = f"0000:{number:02x}:00.0"
        device = self._devices / f"pci0000:00/0000:00:{number:02x}.0" / address
        device.mkdir(parents=True)
        (device / "class").write_text(f"{class_}\n")
        if driver:
            drivers = self.root / "sys/bus/pci/drivers" / driver
            drivers.mkdir(parents=True, exist_ok=True)
            (device / "driver").symlink_to(drivers)
        if is_virtual:
            (device / "physfn").mkdir()
        (self.root / "sys/bus/pci/devices" / address).symlink_to(device)
        return device

    def add_nic(
        self, name: str, mac: str, device: Path | None, *, type_: int = 1, assigned: int = 0
    ) -> Path:
        """Add a network interface of `device`; return its directory."""
        link = self.root / "sys/class/net" / name
        link.mkdir()
        values = {"address": mac, "type": type_, "dev_port": 0, "addr_assign_type": assigned}
        for key, value in values.items():
            (link / key).write_text(f"{value}\n")
        if device is not None:
            (link / "device").symlink_to(device)
        return link

    def mount_oem(self) -> Path:
        """Let /oem be mounted; return its directory of our state."""
        with (self.root / "proc/self/mountinfo").open("a") as file:
            file.write("40 21 8:2 / /oem rw - ext4 /dev/sda2 rw\n")
        own = self.root / "oem/qemu-node"
        own.mkdir(parents=True)
        return own
