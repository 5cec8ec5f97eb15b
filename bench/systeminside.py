"""`python -m bench.systeminside DIRECTORY`: boots the node and plain Debian 13 in turns.

Prints a `SystemRun`. Both machines have the same hardware but for the node's data disk. A boot is
measured by the guest's own clock, from the kernel's start: firmware and boot menu are left out, and
nothing asks a system that boots how far it is. First boots do more than later ones; they are not
measured.
"""

import sys
import tempfile
import time
from pathlib import Path

import msgspec
from guests import cache, debian, small
from scenario.datanode import configured, wait_until_healthy
from scenario.installation import BOOT_TIMEOUT_S, DISK_SIZE, installed
from scenario.machine import Hardware, Machine, create_disk
from scenario.remote import Remote

from bench.system import SystemRun
from qemu_node.configdrive.iso import write_iso
from qemu_node.errors import NodeError

_ROUNDS = 3
_NOMAD_TIMEOUT_S = 900
_OFF_TIMEOUT_S = 300

_USER_DATA = """\
#cloud-config
disable_root: false
users:
- name: root
  ssh_authorized_keys: ["{key}"]
"""


def main(directory: Path) -> None:
    """Measure, and print."""
    (iso,) = directory.glob("*.iso")
    node = configured(installed(iso), small.build(cache.cache_dir()))
    # Short, for the sockets.
    with tempfile.TemporaryDirectory(prefix="qn-bench-", dir="/tmp") as work:
        ours = node.machine(Path(work) / "node")
        theirs = _debian(Path(work) / "debian", node.key)
        rounds = [
            (_boot_debian(theirs, node.key), _boot_node(ours, node.key)) for _ in range(1 + _ROUNDS)
        ]
    debian_login_s, seen = zip(*rounds[1:], strict=True)
    node_login_s, nomad_s, memory_mib = zip(*seen, strict=True)
    run = SystemRun(
        debian_login_s=debian_login_s,
        node_login_s=node_login_s,
        nomad_s=nomad_s,
        memory_mib=memory_mib,
    )
    print(msgspec.json.encode(run).decode())


def _debian(directory: Path, key: Path) -> Machine:
    """Return a machine, off, with Debian's disk and a config drive that lets us in."""
    directory.mkdir()
    disk = create_disk(directory / "disk.qcow2", DISK_SIZE, backing=debian.build())
    public = key.with_suffix(".pub").read_text().strip()
    drive = directory / "config.iso"
    write_iso(drive, {"openstack/latest/user_data": _USER_DATA.format(key=public).encode()}, None)
    return Machine(directory, Hardware(disks=[disk], iso=drive))


def _boot_debian(machine: Machine, key: Path) -> float:
    """Return the time to the login prompt."""
    with machine:
        remote = Remote(machine, key)
        login_s = _login_s(machine, remote)
        _switch_off(machine, remote)
    return login_s


def _boot_node(machine: Machine, key: Path) -> tuple[float, float, float]:
    """Return the times to the login prompt and to Nomad, and the memory in use then, in MiB."""
    with machine:
        remote = Remote(machine, key)
        login_s = _login_s(machine, remote)
        # Returns when the start that the boot has begun is done: no polling.
        remote.run("systemctl start nomad", timeout_s=_NOMAD_TIMEOUT_S)
        started = "systemctl show --property=ActiveEnterTimestampMonotonic --value nomad"
        nomad_us = int(remote.run(started))
        wait_until_healthy(remote)
        lines = remote.run("cat /proc/meminfo").splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        _switch_off(machine, remote)
    return login_s, nomad_us / 1e6, (kib["MemTotal"] - kib["MemAvailable"]) / 1024


def _login_s(machine: Machine, remote: Remote) -> float:
    """Return when the login prompt came, by the clock of the guest's kernel."""
    machine.console.expect("login: ", timeout_s=BOOT_TIMEOUT_S)
    seen = time.monotonic()
    remote.wait(timeout_s=BOOT_TIMEOUT_S)
    uptime_s = float(remote.run("cat /proc/uptime").split()[0])
    return uptime_s - (time.monotonic() - seen)


def _switch_off(machine: Machine, remote: Remote) -> None:
    remote.call("systemctl poweroff || true")
    machine.wait_until_off(timeout_s=_OFF_TIMEOUT_S)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (NodeError, OSError, AssertionError) as exc:
        sys.exit(str(exc))
