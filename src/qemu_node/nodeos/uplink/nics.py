"""The NICs of this machine: what the kernel says about them.

Owns reading them from /sys, and the speed that ethtool(8) says. udev may not have seen a NIC yet.
Does not own which of them are used (`choice`).
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qemu_node.host.files.reading import read_or_empty
from qemu_node.host.nic import own_mac

_ETHER = "1"  # ARPHRD_ETHER, include/uapi/linux/if_arp.h
_CLASS_ETHERNET = "0x0200"  # PCI_CLASS_NETWORK_ETHERNET, include/linux/pci_ids.h
_RANDOM = "1"  # NET_ADDR_RANDOM, include/uapi/linux/netdevice.h
_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
# They give a function to VMs or programs: it never gets a network interface.
_NO_NIC_DRIVERS = frozenset({"vfio-pci", "pci-stub", "uio_pci_generic", "igb_uio"})

_MODE = re.compile(r"\b(?P<mbit>[0-9]+)base")
_SPEED = re.compile(r"^\s*Speed: (?P<mbit>[0-9]+)Mb/s$", re.MULTILINE)
_SECTION = re.compile(
    r"^\t(?P<name>Supported link modes):(?P<modes>.*(?:\n\t {8,}.*)*)", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A physical Ethernet NIC."""

    name: str
    """Its name now; another kernel may give it another one."""
    mac: str
    """Its permanent MAC address, also while a bond has given it another one."""
    place: str
    """Where it is in the machine: its device's path below /sys/devices, and its port there."""
    speed_mbit: int = 0
    """The most that it can do; 0: unknown."""
    is_usb: bool = False
    is_virtual_function: bool = False
    has_random_mac: bool = False
    """The hardware has no address: the kernel made one up for this boot."""
    has_final_name: bool = True
    """udev is done with it. Until then it may be called eth0."""

    @property
    def pci(self) -> str:
        """The address of its PCI function; empty: it is not on PCI."""
        return pci_of(self.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """An Ethernet controller on PCI, which has a NIC once its driver is ready."""

    place: str
    has_driver: bool = False
    """A driver has taken it: it may be loading its firmware."""
    has_nic: bool = False

    @property
    def pci(self) -> str:
        """Its PCI address."""
        return pci_of(self.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The NICs that there are, and the controllers that may get one."""

    nics: tuple[Nic, ...] = ()
    functions: tuple[Function, ...] = ()


def pci_of(place: str) -> str:
    """Return the PCI address in a place, the innermost one; empty: there is none."""
    parts = [part for part in place.split("/") if _PCI.fullmatch(part)]
    return parts[-1] if parts else ""


def read_machine(root: Path, links: str) -> Machine:
    """Return the NICs of this machine, their speeds left out.

    Args:
        root: `/`, or a tree that tests made.
        links: What `ip -json link show` says: only it knows permanent addresses.
    """
    permanent = permanent_addresses(links)
    nics = tuple(_read_nics(root, permanent))
    return Machine(nics=nics, functions=tuple(_read_functions(root, nics)))


def permanent_addresses(links: str) -> dict[str, str]:
    """Return the permanent address of each device that has another one now: pure."""
    try:
        found = json.loads(links or "[]")
    except ValueError:
        return {}
    return {link["ifname"]: link["permaddr"] for link in found if "permaddr" in link}


def fastest_mode(text: str) -> int:
    """Return the speed in Mbit/s of a NIC by what `ethtool NIC` prints: pure; 0 if it says nothing.

    What it supports counts, not what it has negotiated: before networkd starts the NIC is down.
    """
    supported = _SECTION.search(text)
    modes = _MODE.findall(supported["modes"]) if supported else []
    negotiated = _SPEED.findall(text)
    return max((int(mbit) for mbit in [*modes, *negotiated]), default=0)


def _read_nics(root: Path, permanent: dict[str, str]) -> Iterator[Nic]:
    for link in sorted((root / "sys/class/net").glob("*")):
        device = link / "device"
        # No device: a bridge, bond, VLAN or TAP. Wireless NICs cannot be ports of a bond.
        if (
            not device.exists()
            or (link / "phy80211").exists()
            or read_or_empty(link / "type") != _ETHER
        ):
            continue
        place = _place(root, device)
        mac = (permanent.get(link.name) or own_mac(link)).lower()
        if not mac.strip("0:"):
            continue
        yield Nic(
            name=link.name,
            mac=mac,
            place=f"{place}/{read_or_empty(link / 'dev_port') or '0'}",
            is_usb=re.search(r"(^|/)usb[0-9]", place) is not None,
            is_virtual_function=(device / "physfn").exists(),
            has_random_mac=read_or_empty(link / "addr_assign_type") == _RANDOM,
            has_final_name=_has_final_name(root, read_or_empty(link / "ifindex")),
        )


def _has_final_name(root: Path, ifindex: str) -> bool:
    """Tell whether udev has written its record of a NIC (`/run/udev/data/n<ifindex>`)."""
    has_udev = (root / "run/udev/control").exists()
    return not has_udev or (root / "run/udev/data" / f"n{ifindex}").exists()


def _read_functions(root: Path, nics: tuple[Nic, ...]) -> Iterator[Function]:
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        if (
            not read_or_empty(device / "class").startswith(_CLASS_ETHERNET)
            or (device / "physfn").exists()
        ):
            continue
        driver = device / "driver"
        if driver.exists() and driver.resolve().name in _NO_NIC_DRIVERS:
            continue
        place = _place(root, device)
        yield Function(
            place=place,
            has_driver=driver.exists(),
            has_nic=any(nic.place.startswith(f"{place}/") for nic in nics),
        )


def _place(root: Path, device: Path) -> str:
    """Return the path of a device below /sys/devices, which a link leads to."""
    return str(device.resolve()).removeprefix(f"{(root / 'sys/devices').resolve()}/")
