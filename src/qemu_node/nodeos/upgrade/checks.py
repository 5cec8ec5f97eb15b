"""Whether an image may be installed now: pure.

Owns every reason against it, in words. Does not own finding the facts (`run`).
"""

import datetime
from dataclasses import dataclass
from enum import StrEnum

from qemu_node.nodeos.boot import BootMode
from qemu_node.units import MIB, format_size

_MARGIN_BYTES = 256 * MIB
"""Directories, metadata of the image's file system, and Elemental's own files."""
_UNPACKED_UNKNOWN_BYTES = 1200 * MIB
"""What an image is taken to need if nothing says it: more than any of ours."""
_OEM_BYTES = 2 * MIB


class Waiver(StrEnum):
    """The option that sets a reason aside."""

    FORCE = "--force"
    DOWNGRADE = "--allow-downgrade"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an image is not installed."""

    text: str
    hint: str | None = None
    waiver: Waiver | None = None
    """The option by which it is installed all the same; None: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeFacts:
    """What decides whether an image may be installed."""

    mode: BootMode
    is_judged: bool
    """Whether the running system has passed the health check of this boot, if there is one."""
    digest: str
    tag: str
    created: datetime.datetime | None
    unpacked_bytes: int | None
    running_digest: str
    running_created: datetime.datetime | None
    pending_digest: str
    """Of an image that was installed and runs after the next boot; empty if there is none."""
    pending_created: datetime.datetime | None
    """When that image was made."""
    refused: str | None
    """Why the image is refused; None if it is not."""
    state_free_bytes: int
    oem_free_bytes: int
    image_limit_bytes: int | None
    """The size of a snapshot's file system; None: made to measure."""
    largest_bytes: int
    """What the largest snapshot takes."""


def peak_bytes(unpacked_bytes: int | None, largest_bytes: int) -> int:
    """Return what an upgrade writes to the state partition at its peak: pure.

    First the files, then an image of them beside. If nothing says how large they are, what the
    largest snapshot takes counts.
    """
    unpacked = unpacked_bytes
    if unpacked is None:
        unpacked = max(largest_bytes, _UNPACKED_UNKNOWN_BYTES)
    # ext2's metadata, and blocks that files do not fill.
    return 2 * unpacked + unpacked // 10 + _MARGIN_BYTES


def is_up_to_date(facts: UpgradeFacts) -> bool:
    """Tell whether the image runs already, and no other one is to run after the next boot."""
    pending = facts.pending_digest or facts.running_digest
    return bool(facts.digest) and facts.digest == facts.running_digest == pending


def is_pending(facts: UpgradeFacts) -> bool:
    """Tell whether the image is installed and only the reboot is missing."""
    return bool(facts.digest) and facts.digest == facts.pending_digest


def find_reasons(facts: UpgradeFacts) -> list[Reason]:
    """Return all reasons against installing the image, the hardest first."""
    reasons = []
    if facts.mode not in (BootMode.ACTIVE, BootMode.PASSIVE):
        what = {
            BootMode.LIVE: "this is the live system: `elemental install DEVICE` installs it",
            BootMode.RECOVERY: "this is the recovery system: `elemental reset` repairs the node",
        }
        reasons.append(Reason(what.get(facts.mode, "this is no installed node system")))
        return reasons
    if not facts.is_judged:
        reasons.append(
            Reason(
                "the running system has not passed its health check yet",
                hint="wait for elemental-boot-assessment.service; an upgrade now would have no "
                "good system to go back to",
                waiver=Waiver.FORCE,
            )
        )
    if facts.refused is not None:
        reasons.append(
            Reason(
                f"this node refuses {facts.tag or facts.digest}: {facts.refused}",
                hint="`qemu-node os refused` lists such images, and clears one",
                waiver=Waiver.FORCE,
            )
        )
    known = [
        (created, which)
        for created, which in (
            (facts.running_created, "running"),
            (facts.pending_created, "next"),
        )
        if created is not None
    ]
    newest, which = max(known, default=(None, ""))
    is_older = facts.created is not None and newest is not None and facts.created < newest
    if is_older and facts.digest not in (facts.running_digest, facts.pending_digest):
        reasons.append(
            Reason(
                f"{facts.tag or facts.digest} is of {facts.created:%Y-%m-%d %H:%M}, the {which} "
                f"system of {newest:%Y-%m-%d %H:%M}",
                hint="an old image may have known faults",
                waiver=Waiver.DOWNGRADE,
            )
        )
    return reasons + _lacks_room(facts)


def _lacks_room(facts: UpgradeFacts) -> list[Reason]:
    reasons = []
    needed = peak_bytes(facts.unpacked_bytes, facts.largest_bytes)
    if facts.state_free_bytes < needed:
        reasons.append(
            Reason(
                f"the state partition has {format_size(facts.state_free_bytes)} free, "
                f"the upgrade needs {format_size(needed)}",
                hint="`qemu-node os status` lists the snapshots; `qemu-node os clean` removes "
                "what no upgrade completed",
            )
        )
    if facts.oem_free_bytes < _OEM_BYTES:
        reasons.append(Reason("the partition /oem is full", hint="remove files of yours there"))
    unpacked = facts.unpacked_bytes
    limit = facts.image_limit_bytes
    if unpacked is not None and limit is not None and unpacked + unpacked // 20 > limit:
        reasons.append(
            Reason(
                f"the image has {format_size(unpacked)} of files, a snapshot takes "
                f"{format_size(limit)}",
                hint="raise snapshotter.config.size in /etc/elemental/config.d/snapshotter.yaml",
            )
        )
    return reasons


def not_waived(reasons: list[Reason], waivers: frozenset[Waiver]) -> list[Reason]:
    """Return the reasons that the options do not set aside: pure."""
    return [reason for reason in reasons if reason.waiver not in waivers]
