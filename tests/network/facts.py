"""What the kernel says of bridges, ports and VLANs, and waiting for it to say so.

Owns reading, by iproute2 and /sys: never through the code under test.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from qemu_node.host.process.command import run_blocking
from qemu_node.net.port.checksums import DEVICE

MANAGEMENT = 4094
"""The node's own VLAN, as osimage/files has it."""
_PATIENCE_S = 30.0


def wait_until(
    condition: Callable[[], bool],
    what: str,
    timeout_s: float = _PATIENCE_S,
    interval_s: float = 0.1,
) -> None:
    """Return once `condition` holds; fail, naming `what`, if it does not within the time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for {what}"
        time.sleep(interval_s)


def vlans_of(port: str) -> set[int]:
    """Return the VLANs of a bridge's port, as the kernel says."""
    done = run_blocking(["bridge", "-json", "-compressvlans", "vlan", "show", "dev", port])
    entries = [vlan for item in json.loads(done.stdout) for vlan in item["vlans"]]
    return {
        vid
        for entry in entries
        for vid in range(entry["vlan"], entry.get("vlanEnd", entry["vlan"]) + 1)
    }


def is_untagged(port: str, vid: int) -> bool:
    """Tell whether frames of a VLAN leave a bridge's port without a tag."""
    done = run_blocking(["bridge", "-json", "vlan", "show", "dev", port])
    entries = [vlan for item in json.loads(done.stdout) for vlan in item["vlans"]]
    return any(
        entry["vlan"] == vid and "Egress Untagged" in entry.get("flags", ()) for entry in entries
    )


def taps() -> list[str]:
    """Return the TAPs of VMs that exist."""
    names = (path.name for path in Path("/sys/class/net").glob("qn*"))
    return sorted(name for name in names if name != DEVICE)


def master(port: str) -> str:
    """Return the bridge or bond that a device is a port of; empty: none, or no such device."""
    path = Path("/sys/class/net") / port / "master"
    return path.resolve().name if path.exists() else ""


def set_elements() -> list[str]:
    """Return the elements of all sets of the driver's filter."""
    done = run_blocking(["nft", "-j", "list", "table", "bridge", "qn"])
    sets = [item["set"] for item in json.loads(done.stdout)["nftables"] if "set" in item]
    return [f"{found['name']} {element}" for found in sets for element in found.get("elem", [])]
