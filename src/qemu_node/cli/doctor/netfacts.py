"""Finding out what `netchecks` judges: small reads of /sys, /proc and networkd's units.

Owns as much of `.network` files as it takes to see which unit would apply to a TAP (man 5
systemd.network). Changes nothing, and needs no root.
"""

import ctypes
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from qemu_node.cli.doctor.netchecks import BridgeState, NetworkFacts, TapUnit, UplinkState
from qemu_node.config.network import NetworkConfig
from qemu_node.errors import NodeError
from qemu_node.host.files.reading import read_or_empty
from qemu_node.net.netlink.answers import PortVlans
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.portspec import tap_name

_NET = Path("/sys/class/net")
_BRIDGE_SYSCTLS = Path("/proc/sys/net/bridge")
_UNIT_DIRS = tuple(
    Path(root) / "systemd" / "network" for root in ("/etc", "/run", "/usr/local/lib", "/usr/lib")
)
_NETWORKD_STATE = Path("/run/systemd/netif/state")
STRICT_MODULES = ("ifb", "act_mirred", "cls_matchall")
_LIBNFTABLES = "libnftables.so.1"
_NET_ADDR_SET = 3  # include/uapi/linux/netdevice.h

# What a TAP is to networkd. A condition on anything else (MAC address, path, udev property, …)
# matches some device of the operator's, and no TAP.
_TAP_KIND, _TAP_TYPE, _TAP_DRIVER = "tun", "ether", "tun"
_YES = ("yes", "true", "on", "1", "y", "t")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A `.network` file."""

    path: str
    text: str

    @property
    def name(self) -> str:
        """Its file name, by which units are sorted and override each other."""
        return self.path.rpartition("/")[2]


def read_network(config: NetworkConfig) -> NetworkFacts:
    """Return the facts of the devices that node.toml names, and of what may disturb them."""
    is_managed = _NETWORKD_STATE.exists()
    return NetworkFacts(
        bridge=read_bridge(config.bridge) if config.bridge else None,
        uplink=read_uplink(config.uplink) if config.uplink else None,
        bridge_netfilter=read_bridge_netfilter(),
        tap_unit=find_tap_unit(read_units(), tap_name("any", 0)) if is_managed else None,
        has_nftables=has_library(_LIBNFTABLES),
        missing_modules=missing_modules(STRICT_MODULES),
        has_vhost_net=Path("/dev/vhost-net").exists(),
    )


def read_bridge(name: str, net: Path = _NET) -> BridgeState | None:
    """Return what the device `name` is like as a bridge, None where there is none."""
    device = net / name
    if not device.exists():
        return None
    if not (device / "bridge").is_dir():
        return BridgeState(is_bridge=False)
    return BridgeState(
        is_bridge=True,
        is_up=bool(int(read_or_empty(device / "flags") or "0", 16) & 1),  # IFF_UP
        filters_vlans=read_or_empty(device / "bridge" / "vlan_filtering") == "1",
        snoops_multicast=read_or_empty(device / "bridge" / "multicast_snooping") == "1",
        default_pvid=int(read_or_empty(device / "bridge" / "default_pvid") or "0"),
        has_own_address=read_or_empty(device / "addr_assign_type") == str(_NET_ADDR_SET),
    )


def read_uplink(name: str, net: Path = _NET) -> UplinkState | None:
    """Return what the device `name` is like as an uplink, None where there is none."""
    device = net / name
    if not device.exists():
        return None
    master = device / "master"
    miimon = read_or_empty(device / "bonding" / "miimon")
    vlans = read_vlans(int(read_or_empty(device / "ifindex") or "0"))
    return UplinkState(
        master=master.resolve().name if master.exists() else "",
        has_carrier=read_or_empty(device / "carrier") == "1",
        miimon_ms=int(miimon) if miimon else None,
        vids=vlans.vids,
        untagged=vlans.untagged,
    )


def read_vlans(ifindex: int) -> PortVlans:
    """Return the VLANs that a port carries; none where the kernel does not say."""
    nothing = PortVlans(vids=frozenset(), untagged=frozenset())
    try:
        with RouteSocket() as route:
            return route.read_vlans(ifindex).get(ifindex, nothing)
    except (NodeError, OSError):
        return nothing


def read_bridge_netfilter(sysctls: Path = _BRIDGE_SYSCTLS) -> tuple[str, ...]:
    """Return which of br_netfilter's sysctls are on; none where the module is not loaded."""
    names = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables")
    return tuple(name for name in names if read_or_empty(sysctls / name) == "1")


def read_units(dirs: Sequence[Path] = _UNIT_DIRS) -> Iterator[Unit]:
    """Yield the `.network` files that networkd reads, those with precedence first."""
    for directory in dirs:
        for path in sorted(directory.glob("*.network")):
            try:
                # A link to /dev/null masks those of the same name: an empty one matches nothing.
                yield Unit(path=str(path), text=path.read_text(errors="replace"))
            except OSError:
                continue


def find_tap_unit(units: Iterable[Unit], ifname: str) -> TapUnit | None:
    """Return the first unit that matches the TAP `ifname`; None: networkd leaves it alone.

    Args:
        units: Of directories with precedence first: of two with one name the earlier one counts.
        ifname: The TAP.
    """
    by_name: dict[str, Unit] = {}
    for unit in units:
        by_name.setdefault(unit.name, unit)
    for _, unit in sorted(by_name.items()):
        settings = _parse(unit.text)
        if _matches(settings.get("Match", []), ifname):
            unmanaged = [value for key, value in settings.get("Link", []) if key == "Unmanaged"]
            is_unmanaged = bool(unmanaged) and unmanaged[-1].lower() in _YES
            return TapUnit(path=unit.path, is_unmanaged=is_unmanaged)
    return None


def _parse(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return the settings of each section, in their order."""
    found: dict[str, list[tuple[str, str]]] = {}
    section: list[tuple[str, str]] = []
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if line.startswith(("#", ";")):
            continue
        if line.startswith("[") and line.endswith("]"):
            section = found.setdefault(line[1:-1], [])
        elif "=" in line:
            key, _, value = line.partition("=")
            section.append((key.strip(), value.strip()))
    return found


def _matches(conditions: Sequence[tuple[str, str]], ifname: str) -> bool:
    """Tell whether all `conditions` of a section [Match] hold for a TAP; none at all match none."""
    words: dict[str, list[str]] = {}
    for key, value in conditions:
        # Assigning nothing takes back what was assigned before.
        words[key] = words.get(key, []) + value.split() if value else []
    actual = {"Name": ifname, "Kind": _TAP_KIND, "Type": _TAP_TYPE, "Driver": _TAP_DRIVER}
    wanted = {key: globs for key, globs in words.items() if globs}
    return bool(wanted) and all(_fits(globs, actual.get(key)) for key, globs in wanted.items())


def _fits(globs: Sequence[str], value: str | None) -> bool:
    """Tell whether a list of globs, inverted where it begins with "!", fits a value."""
    is_inverted = globs[0].startswith("!")
    bare = [glob.removeprefix("!") for glob in globs]
    has_match = value is not None and any(fnmatchcase(value, glob) for glob in bare)
    return has_match != is_inverted


def missing_modules(names: Sequence[str], root: Path = Path("/")) -> tuple[str, ...]:
    """Return which of the kernel's modules are neither loaded, nor built in, nor to be loaded.

    Where a kernel has no list of modules, as in containers, nobody can tell: none.
    """
    release = root / "lib" / "modules" / os.uname().release
    lists = [read_or_empty(release / name) for name in ("modules.dep", "modules.builtin")]
    if not any(lists):
        return ()
    known = {
        line.partition(":")[0].rpartition("/")[2].partition(".")[0].replace("-", "_")
        for text in lists
        for line in text.splitlines()
    }
    loaded = root / "sys" / "module"
    return tuple(name for name in names if name not in known and not (loaded / name).exists())


def has_library(name: str) -> bool:
    """Tell whether a shared library can be loaded."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
