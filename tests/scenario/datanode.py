"""A node at work: the installed system, a data disk and Nomad's configuration.

Owns this state, as `installation` owns the installed one: it is kept in the cache.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from guests import cache
from scenario.installation import BOOT_TIMEOUT_S, LOOKS, Installation
from scenario.machine import Machine, create_disk
from scenario.remote import Remote

DATA_SIZE = "16G"
HEALTHY_TIMEOUT_S = 1200
GUEST_IMAGE = "/data/local-images/small.qcow2"
"""Where jobs find the small guest, in a directory that the sample node.toml allows."""


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
        guest_image: What lies on the data disk for jobs, as `GUEST_IMAGE`.
    """
    here = Path(__file__)
    sources = [here, here.with_name("machine.py"), here.with_name("remote.py")]
    digest = cache.fingerprint(sources, str(installation.directory), str(guest_image))

    def make(target: Path, scratch: Path) -> None:
        target.mkdir()
        for key in (installation.key, installation.key.with_suffix(".pub")):
            shutil.copy(key, target)
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
    seen = {name: remote.run(command) for name, command in LOOKS.items()}
    seen["console"] = machine.console.text
    seen["nomad without data"] = remote.run("systemctl is-active nomad || true")
    seen["accounts"] = remote.run("getent shadow")
    seen["oem"] = remote.run("stat -c '%a %n' /oem /oem/*")
    remote.run("mkfs.ext4 -q -L DATA /dev/vdb && mount LABEL=DATA /data", timeout_s=300)
    remote.run("mkdir /data/config && cp /usr/share/nomad/* /data/config/")
    remote.run(f"mkdir {Path(GUEST_IMAGE).parent}")
    remote.put(guest_image, GUEST_IMAGE)
    remote.run("sync")
    remote.call("systemctl poweroff || true")
    machine.wait_until_off(timeout_s=300)
    return seen


def wait_until_healthy(remote: Remote) -> None:
    """Return when Nomad has found the driver healthy, so that VMs can start."""
    # One command that waits: to ask again and again takes the node what its own start needs.
    remote.run(
        f"qemu-node os health --timeout {HEALTHY_TIMEOUT_S}s", timeout_s=HEALTHY_TIMEOUT_S + 60
    )
