"""An unattended installation: from the seed that was found to the settings and disks.

Owns which checks an installation without a person must pass. Does not own reading the seed
(`source`) nor doing it (`install`).
"""

from collections.abc import Callable, Sequence

from qemu_node.nodeos.setup.choice import (
    Choice,
    RefusedError,
    choose_disks,
    find_disk,
    require_some_pattern,
)
from qemu_node.nodeos.setup.disks import Disk
from qemu_node.nodeos.setup.probe import Leftover
from qemu_node.nodeos.setup.seed import Seed

_HOW = (
    "write `wipe = true` beside the pattern of {disk} in the seed, or empty it: `wipefs -a {disk}`"
)


class AlreadyInstalledError(RefusedError):
    """The disk holds the node that this seed has installed: there is nothing to do."""


def choose_by_seed(
    seed: Seed, disks: Sequence[Disk], leftover: Callable[[Disk], Leftover]
) -> Choice:
    """Return the disks that `seed` means.

    Args:
        seed: The seed.
        disks: All disks of the machine.
        leftover: Tells what an earlier installation left on a disk that is not empty.

    Raises:
        AlreadyInstalledError: this seed was installed there. A machine that boots the live system
            again would otherwise lose its node at every boot.
        RefusedError: the seed does not suit the machine, or something would be lost.
        ConfigError: the seed names no disk.
    """
    require_some_pattern(seed.disk)
    system = find_disk(seed.disk, disks, purpose="the system's disk, [disk]")
    wipe = seed.disk.wipe
    if system.volumes and not system.mounts:
        match leftover(system):
            case Leftover.INSTALLED:
                raise AlreadyInstalledError(
                    f"{system.path} holds the node that this seed has installed",
                    hint="boot from that disk; to install it again, raise `generation` in the seed",
                )
            case Leftover.UNFINISHED:
                wipe = True
            case Leftover.UNKNOWN:
                pass
    data = None
    if seed.data is not None and not seed.data.same_disk:
        rest = [disk for disk in disks if disk.path != system.path]
        data = find_disk(seed.data, rest, purpose="the disk of /data, [data]")
    return choose_disks(system, disks, wipe=wipe, data=data, data_pattern=seed.data, how=_HOW)
