"""A node as an operator makes one: boot the ISO, look, install, power off; then data and settings.

Owns the two states that the tests start from, and what was seen on the way to them. Both are kept
in the cache, by the content of the ISO and of this file; a test works on overlays of their disks.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from guests import cache
from scenario.console import SerialConsole
from scenario.machine import Hardware, Machine, create_disk
from scenario.remote import Remote

from qemu_node.host.process.command import run_blocking

BOOT_TIMEOUT_S = 900
INSTALL_TIMEOUT_S = 2400
DISK_SIZE = "24G"
DATA_SIZE = "16G"

_LOOKS = {
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
        """What the live system said: the names of `_LOOKS`, `console`, and `install`."""
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
    key = directory / "key"
    run_blocking(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "admin", "-f", str(key)])
    public = key.with_suffix(".pub").read_text().strip()
    disk = create_disk(directory / "disk.qcow2", DISK_SIZE)
    with Machine(directory, Hardware(disks=[disk], iso=iso)) as machine:
        console = machine.console
        console.log_in("root", "elemental", timeout_s=BOOT_TIMEOUT_S)
        seen = {"console": console.text} | look(console)
        console.run(f"mkdir -p -m 700 ~/.ssh; echo '{public}' >~/.ssh/authorized_keys")
        seen["install"] = console.run("elemental install /dev/vda", timeout_s=INSTALL_TIMEOUT_S)
        console.send("poweroff")
        machine.wait_until_off(timeout_s=300)
    (directory / "seen.json").write_text(json.dumps(seen))


def look(console: SerialConsole) -> dict[str, str]:
    """Return what the system behind a console says of itself, by the names of `_LOOKS`."""
    return {name: console.run(command) for name, command in _LOOKS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node(Installation):
    """A node at work: two disks, with a data disk and the sample configuration, as installed."""

    @property
    def data_disk(self) -> Path:
        return self.directory / "data.qcow2"

    def machine(self, directory: Path, **hardware: object) -> Machine:
        """As `Installation.machine`, with an overlay of the data disk as second one."""
        directory.mkdir(parents=True, exist_ok=True)
        data = create_disk(directory / "data.qcow2", DATA_SIZE, backing=self.data_disk)
        return super(Node, self).machine(directory, disks=[data], **hardware)


def configured(installation: Installation, guest_image: Path) -> Node:
    """Return `installation` after its first start, with a data disk and Nomad's configuration.

    Args:
        installation: Of the ISO.
        guest_image: What lies on the data disk for jobs, as /data/guests/small.qcow2.
    """
    here = Path(__file__)
    sources = [here, here.with_name("machine.py"), here.with_name("remote.py")]
    digest = cache.fingerprint(sources, str(installation.directory), str(guest_image))

    def make(target: Path, scratch: Path) -> None:
        target.mkdir()
        shutil.copyfile(installation.key, target / "key")
        (target / "key").chmod(0o600)
        data = create_disk(target / "data.qcow2", DATA_SIZE)
        machine = installation.machine(target, disks=[data])
        with machine:
            seen = _configure(machine, Remote(machine, installation.key), guest_image)
        (target / "seen.json").write_text(json.dumps(seen))

    return Node(directory=cache.cached(cache.cache_dir(), "node-data", digest, "", make))


def _configure(machine: Machine, remote: Remote, guest_image: Path) -> dict[str, str]:
    """Start the node for the first time, and set it up as docs/os.md says."""
    remote.wait(timeout_s=BOOT_TIMEOUT_S)
    remote.until("systemctl is-active multi-user.target", timeout_s=BOOT_TIMEOUT_S)
    seen = {name: remote.run(command) for name, command in _LOOKS.items()}
    seen["console"] = machine.console.text
    seen["nomad without data"] = remote.run("systemctl is-active nomad || true")
    seen["accounts"] = remote.run("getent shadow")
    seen["oem"] = remote.run("stat -c '%a %n' /oem /oem/*")
    remote.run("mkfs.ext4 -q -L DATA /dev/vdb && mount LABEL=DATA /data", timeout_s=300)
    remote.run("mkdir /data/config && cp /usr/share/nomad/* /data/config/")
    remote.run("mkdir /data/guests")
    remote.put(guest_image, "/data/guests/small.qcow2")
    remote.run("sync")
    remote.call("systemctl poweroff || true")
    machine.wait_until_off(timeout_s=300)
    return seen
