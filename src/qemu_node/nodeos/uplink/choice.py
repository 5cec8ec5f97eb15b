"""Which NICs are the node's uplink, which of them leads, and the node's MAC address: pure.

The address must be the same at every boot, in whatever order drivers load: a DHCP server may know
it. So it is written down at the first boot (`Record`) and kept until its NIC is replaced. Owns
these decisions. Does not own the settings (`config.uplink`) nor how they become files (`files`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import msgspec

from qemu_node.config.uplink import UplinkConfig, is_mac, is_pci_address
from qemu_node.nodeos.uplink.nics import Function, Machine, Nic

WAIT_S = 15.0
"""How long the first boot waits for the driver of a NIC that is there."""
PROBE_WAIT_S = 60.0
"""The same while a driver has it: some load firmware for half a minute."""
NAME_WAIT_S = 30.0
"""How long any boot waits for udev to name a NIC that is there, which takes it milliseconds, and
seconds in a busy machine that is emulated. Before that a virtual NIC does not tell its speed."""


class KnownNic(msgspec.Struct, frozen=True, kw_only=True):
    """A NIC that was there at an earlier boot."""

    mac: str
    place: str
    speed_mbit: int = 0
    name: str = ""
    """For settings that name it, while its driver is not ready."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a boot leaves to the next one. Unknown keys are ignored."""

    mac: str = ""
    """The node's MAC address; empty: none was chosen yet."""
    nics: tuple[KnownNic, ...] = ()
    mute: tuple[str, ...] = ()
    """Places of controllers that have got no NIC: no boot waits for them again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was decided."""

    mac: str = ""
    """The MAC address of br0 and bond0; empty: networkd derives one from the machine id, because no
    NIC has one of its own."""
    members: tuple[Nic, ...] = ()
    """The NICs of the bond that are there."""
    primary: str = ""
    """The NIC that leads, as in `[uplink] primary`; empty: none (LACP, or no NIC)."""
    takes_all: bool = True
    """All physical NICs are in the bond, also one that comes later."""
    problems: tuple[str, ...] = ()
    """What of the settings does not fit this machine."""


def matches(word: str, nic: Nic) -> bool:
    """Tell whether a word of `[uplink] nics` is for this NIC."""
    if is_mac(word):
        return word.lower() == nic.mac
    if is_pci_address(word):
        return word.lower() == nic.pci
    return fnmatchcase(nic.name, word)


def find_members(settings: UplinkConfig, nics: Iterable[Nic]) -> tuple[Nic, ...]:
    """Return the NICs of the bond, the first one by place first."""
    if settings.nics:
        found = (nic for nic in nics if any(matches(word, nic) for word in settings.nics))
    else:
        found = (nic for nic in nics if not nic.is_usb and not nic.is_virtual_function)
    return tuple(sorted(found, key=_by_place))


def seconds_to_wait(settings: UplinkConfig, machine: Machine, record: Record) -> float:
    """Return how long the start of networkd may be delayed for NICs that are not there yet.

    0 on a node whose NICs are known, or all there: the address depends on nothing that comes later.
    A boot never waits for longer than the largest of these times.
    """
    pending = [function for function in machine.functions if _is_awaited(function, machine, record)]
    if pending:
        return PROBE_WAIT_S if any(function.has_driver for function in pending) else WAIT_S
    # Names are compared with those of the settings; the address does not depend on them.
    if any(not nic.has_final_name for nic in machine.nics):
        return NAME_WAIT_S
    known = record.mac or settings.mac
    return 0.0 if known or find_members(settings, machine.nics) else WAIT_S


def choose(settings: UplinkConfig, machine: Machine, record: Record) -> Choice:
    """Return what to do with the NICs of `machine`.

    Args:
        settings: The operator's.
        machine: The NICs that there are.
        record: What the last boot left.
    """
    machine = with_known_speeds(machine, record)
    members = find_members(settings, machine.nics)
    problems: list[str] = []
    takes_all = not settings.nics
    # Whose drivers are not ready: nothing waits for NICs that are known, networkd takes them later.
    late = [known for known in record.nics if _is_late(known, machine)]
    if settings.nics and not members and not late:
        # A wrong word must not cost the node: it goes on with what it would have taken without it.
        takes_all, members = True, find_members(UplinkConfig(), machine.nics)
        problems.append(
            f"no NIC of this machine is {' or '.join(settings.nics)}: all NICs are used"
        )
    if not members and not late:
        problems.append("this machine has no NIC that can be used")
    return Choice(
        mac=settings.mac.lower() or _choose_mac(members, machine, record),
        members=members,
        primary=_choose_primary(settings, members, machine, record),
        takes_all=takes_all,
        problems=tuple(problems),
    )


def with_known_speeds(machine: Machine, record: Record) -> Machine:
    """Return `machine` with speeds of earlier boots for NICs that tell none in this one."""
    known = {nic.mac: nic.speed_mbit for nic in record.nics}
    nics = (
        replace(nic, speed_mbit=nic.speed_mbit or known.get(nic.mac, 0)) for nic in machine.nics
    )
    return replace(machine, nics=tuple(nics))


def next_record(settings: UplinkConfig, choice: Choice, machine: Machine, record: Record) -> Record:
    """Return what this boot leaves to the next one."""
    machine = with_known_speeds(machine, record)
    present = {nic.mac for nic in machine.nics}
    late = [known for known in record.nics if known.mac not in present]
    kept = [known for known in late if known.mac == record.mac or _is_late(known, machine)]
    nics = [
        KnownNic(
            mac=nic.mac,
            place=nic.place,
            speed_mbit=nic.speed_mbit,
            name=nic.name if nic.has_final_name else "",
        )
        for nic in sorted(machine.nics, key=_by_place)
        if not nic.has_random_mac
    ]
    known_places = tuple(known.place for known in kept)
    return Record(
        mac=record.mac if settings.mac else choice.mac,
        nics=(*nics, *kept),
        mute=tuple(
            function.place
            for function in machine.functions
            if not function.has_nic
            and not any(place.startswith(f"{function.place}/") for place in known_places)
        ),
    )


def _by_place(nic: Nic) -> tuple[bool, str, int, str]:
    """Order NICs by where they are; those without an address of their own come last."""
    directory, _, port = nic.place.rpartition("/")
    return (nic.has_random_mac, directory, int(port or "0"), nic.mac)


def _is_awaited(function: Function, machine: Machine, record: Record) -> bool:
    """Tell whether a controller without a NIC may change what is decided."""
    if function.has_nic or function.place in record.mute:
        return False
    inside = [known for known in record.nics if known.place.startswith(f"{function.place}/")]
    if not record.mac or not inside:
        return True
    # It is only late. Its address and speed are known; but if it is the node's own, and another
    # NIC is new, somebody may have replaced it.
    return any(known.mac == record.mac for known in inside) and _has_new_nic(machine.nics, record)


def _is_late(known: KnownNic, machine: Machine) -> bool:
    """Tell whether a NIC is missing whose controller is there."""
    return any(
        known.place.startswith(f"{function.place}/") and not function.has_nic
        for function in machine.functions
    )


def _has_new_nic(nics: Iterable[Nic], record: Record) -> bool:
    seen = {known.mac for known in record.nics}
    return any(nic.mac not in seen for nic in nics)


def _choose_mac(members: tuple[Nic, ...], machine: Machine, record: Record) -> str:
    """Return the recorded address, or a new one if its NIC is not the node's any more."""
    first = next((nic.mac for nic in members if not nic.has_random_mac), "")
    if not record.mac:
        return first
    if any(nic.mac == record.mac for nic in members):
        return record.mac
    if any(nic.mac == record.mac for nic in machine.nics):
        return first or record.mac  # the settings give that NIC to something else
    own = [known for known in record.nics if known.mac == record.mac]
    is_late = any(_is_late(known, machine) for known in own)
    # A NIC that broke or comes late does not change the address. One that was replaced does: its
    # address may be in another machine by now.
    is_replaced = not is_late and _has_new_nic(members, record)
    return first if is_replaced and first else record.mac


def _choose_primary(
    settings: UplinkConfig, members: tuple[Nic, ...], machine: Machine, record: Record
) -> str:
    """Return the NIC that leads: the fastest one, of those the first by place."""
    if settings.mode == "lacp":
        return ""
    if settings.primary:
        return settings.primary
    present = {nic.mac for nic in machine.nics}
    late = [
        Nic(name=known.name, mac=known.mac, place=known.place, speed_mbit=known.speed_mbit)
        for known in record.nics
        if known.mac not in present and _is_late(known, machine)
    ]
    candidates = (*members, *find_members(settings, late))
    best = min(candidates, key=lambda nic: (-nic.speed_mbit, *_by_place(nic)), default=None)
    return _word_for(best, machine) if best else ""


def _word_for(nic: Nic, machine: Machine) -> str:
    """Return what names this NIC and no other in a configuration file."""
    is_unique = [other.mac for other in machine.nics].count(nic.mac) <= 1
    if is_unique and not nic.has_random_mac:
        return nic.mac
    return nic.pci or nic.name
