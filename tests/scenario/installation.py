"""A node as an operator makes one: boot the ISO, look, install, power off.

Owns the state that the tests start from, and what was seen on the way to it. It is kept in the
cache, by the content of the ISO and of this file; a test works on an overlay of its disk.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from guests import cache
from scenario.console import SerialConsole
from scenario.machine import HOST_NAME, Hardware, Machine, create_disk
from scenario.remote import make_key

BOOT_TIMEOUT_S = 900
INSTALL_TIMEOUT_S = 2400
DISK_SIZE = "24G"

LOOKS = {
    "kernel log": "dmesg",
    "addresses": "ip -brief address",
    "bond": "cat /sys/class/net/bond0/bonding/slaves",
    "bridge": "ls /sys/class/net/br0/brif",
    "host name": "hostname",
    "ssh": "systemctl is-active ssh.service ssh.socket || true",
    "listening": "ss -Hltn",
    "failed": "systemctl --failed --no-legend --plain",
    "release": "cat /etc/os-release",
    "swap": "swapon --noheadings --show=NAME",
    "boot": "systemd-analyze || true",
    "memory": "cat /proc/meminfo",
}
"""What the tests want to know of the live system: name → command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A disk with an installed system that has never been started."""

    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    @property
    def key(self) -> Path:
        """The private key of the administrator who installed it."""
        return self.directory / "key"

    @property
    def seen(self) -> dict[str, str]:
        """What the live system said: the names of `LOOKS`, `console`, and `install`."""
        seen: dict[str, str] = json.loads((self.directory / "seen.json").read_text())
        return seen

    def machine(self, directory: Path, **hardware: object) -> Machine:
        """Return a machine, off, with an overlay of this disk and the firmware that knows it."""
        directory.mkdir(parents=True, exist_ok=True)
        disk = create_disk(directory / "disk.qcow2", DISK_SIZE, backing=self.disk)
        shutil.copyfile(self.directory / "vars.fd", directory / "vars.fd")
        disks = [disk, *hardware.pop("disks", ())]  # type: ignore[misc]
        return Machine(directory, Hardware(disks=disks, **hardware))  # type: ignore[arg-type]


def installed(iso: Path) -> Installation:
    """Return the system that `iso` installs; installed unless that is kept already."""
    here = Path(__file__)
    digest = cache.fingerprint([iso, here, here.with_name("machine.py")])

    def make(target: Path, scratch: Path) -> None:
        target.mkdir()
        _install(iso, target)

    return Installation(directory=cache.cached(cache.cache_dir(), "node", digest, "", make))


def _install(iso: Path, directory: Path) -> None:
    """Install from `iso` to `directory/disk.qcow2`, as a person at the console."""
    public = make_key(directory / "key")
    disk = create_disk(directory / "disk.qcow2", DISK_SIZE)
    with Machine(directory, Hardware(disks=[disk], iso=iso)) as machine:
        console = machine.console
        # On a slow machine there is a prompt before there is a name or an address to show.
        console.expect(rf"host name +{HOST_NAME}\b", timeout_s=BOOT_TIMEOUT_S)
        console.log_in("root", "elemental", timeout_s=BOOT_TIMEOUT_S)
        seen = {"console": console.text} | look(console)
        console.run(f"mkdir -p -m 700 ~/.ssh; echo '{public}' >~/.ssh/authorized_keys")
        seen["install"] = console.run("elemental install /dev/vda", timeout_s=INSTALL_TIMEOUT_S)
        console.send("poweroff")
        machine.wait_until_off(timeout_s=300)
    (directory / "seen.json").write_text(json.dumps(seen))


def look(console: SerialConsole) -> dict[str, str]:
    """Return what the system behind a console says of itself, by the names of `LOOKS`."""
    return {name: console.run(command) for name, command in LOOKS.items()}
