"""What a job's NIC becomes on this node: the operator's rules applied to the job's wish. Pure.

Owns the decision and its messages. Does not own the rules' syntax (`config.network`) nor whether
the bridge is fit (`port.bridge`).
"""

import re
from collections.abc import Iterator

from qemu_node.config.network import NetworkConfig, NetworkPolicy
from qemu_node.errors import JobError
from qemu_node.net.mac import parse_mac
from qemu_node.net.portspec import (
    MAX_QUEUES,
    MTU_MAX,
    MTU_MIN,
    RATE_MAX_MBIT,
    NicIdentity,
    NicWish,
    PortSpec,
    UserPort,
    tap_name,
)
from qemu_node.vlans import VID_MAX, VID_MIN, format_vlans, is_vid

_FILE = "node.toml"


def decide(
    wish: NicWish, namespace: str, config: NetworkConfig, nic: NicIdentity
) -> PortSpec | UserPort:
    """Return what the NIC becomes: a port of the bridge, or user mode.

    The first rule that matches `namespace` and allows the whole wish decides. The node's default
    VLAN needs no rule, even if the job names it: the operator allows it to all. The management VLAN
    is always refused.

    Raises:
        JobError: the wish contradicts itself or is not allowed. The message names the rule, and
            the file, that would have to allow it.
    """
    _check_shape(wish)
    asks_for_vlan = wish.vlan is not None or bool(wish.trunk)
    if wish.is_user or not (asks_for_vlan or config.default_vlan):
        return _user_port(wish, nic)
    vids = frozenset(wish.trunk) or frozenset((wish.vlan or config.default_vlan,))
    if not config.bridge:
        raise JobError(
            f"VLAN {format_vlans(vids)} is not possible: this node has no bridge for VMs",
            hint=f"the operator names one as network.bridge in {_FILE}",
        )
    if config.management_vlan in vids:
        raise JobError(
            f"VLAN {config.management_vlan} is refused: it is the node's own",
            hint=f"network.management_vlan in {_FILE}; no rule can allow it",
        )
    rule = _find_rule(wish, vids, namespace, config)
    return PortSpec(
        vm_id=nic.vm_id,
        index=nic.index,
        ifname=tap_name(nic.vm_id, nic.index),
        mac=nic.mac if wish.mac is None else parse_mac(wish.mac),
        vlan=None if wish.trunk else next(iter(vids)),
        trunk=tuple(sorted(set(wish.trunk))),
        isolated=wish.isolated,
        strict=_is_strict(rule, vids, config),
        queues=wish.queues,
        mtu=wish.mtu,
        rate_mbit=wish.rate_mbit,
        addresses=rule.addresses if rule is not None else (),
    )


def _check_shape(wish: NicWish) -> None:
    """Raise for a wish that no node can fulfil."""
    ways = [
        name
        for name, is_asked in (
            ('mode = "user"', wish.is_user),
            ("vlan", wish.vlan is not None),
            ("trunk", bool(wish.trunk)),
        )
        if is_asked
    ]
    if len(ways) > 1:
        raise JobError(f"a network block has {' and '.join(ways)}", hint="it can have one of them")
    for vid in wish.trunk if wish.vlan is None else (wish.vlan,):
        if not is_vid(vid):
            raise JobError(f"{vid} is not a VLAN", hint=f"VLANs are {VID_MIN} to {VID_MAX}")
    for name, value, low, high in (
        ("queues", wish.queues, 1, MAX_QUEUES),
        ("mtu", wish.mtu, MTU_MIN, MTU_MAX),
        ("rate", wish.rate_mbit, 1, RATE_MAX_MBIT),
    ):
        if value is not None and not low <= value <= high:
            raise JobError(f"network {name} = {value} is out of range", hint=f"{low} to {high}")


def _user_port(wish: NicWish, nic: NicIdentity) -> UserPort:
    """Return the user-mode NIC; raise if the wish needs a port of the bridge."""
    given = [
        name
        for name, is_given in (
            ("mac", wish.mac is not None),
            ("isolated", wish.isolated),
            ("queues", wish.queues != 1),
            ("mtu", wish.mtu is not None),
            ("rate", wish.rate_mbit is not None),
        )
        if is_given
    ]
    if given:
        raise JobError(
            f"network {given[0]} needs a VLAN; this NIC is in user mode",
            hint=f"name a vlan, or have a network.default_vlan set in {_FILE}",
        )
    return UserPort(vm_id=nic.vm_id, index=nic.index, mac=nic.mac)


def _find_rule(
    wish: NicWish, vids: frozenset[int], namespace: str, config: NetworkConfig
) -> NetworkPolicy | None:
    """Return the rule that allows the wish; None if the wish is only the default VLAN."""
    matching = [
        (number, rule)
        for number, rule in enumerate(config.policy, start=1)
        if any(_matches(pattern, namespace) for pattern in rule.namespaces)
    ]
    for _, rule in matching:
        if next(_lacks(wish, vids, rule), None) is None:
            return rule
    if vids == {config.default_vlan} and not wish.trunk and wish.mac is None:
        return None
    raise _refusal(wish, vids, namespace, matching)


def _is_strict(rule: NetworkPolicy | None, vids: frozenset[int], config: NetworkConfig) -> bool:
    """Tell whether the port's checksums must be finished here: it shares a VLAN with other owners.

    A VLAN has one owner if all rules that allow it name the same single namespace.
    """
    if rule is not None and rule.strict is not None:
        return rule.strict
    owners = {
        pattern for other in config.policy if other.vids & vids for pattern in other.namespaces
    }
    has_one_owner = len(owners) == 1 and not any(set("*?") & set(owner) for owner in owners)
    return config.default_vlan in vids or not has_one_owner


def _matches(pattern: str, namespace: str) -> bool:
    """Tell whether `namespace` matches `pattern`, in which only `*` and `?` are special."""
    # fnmatch also has sets in brackets, and ignores case on some systems.
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, namespace, re.DOTALL) is not None


def _lacks(wish: NicWish, vids: frozenset[int], rule: NetworkPolicy) -> Iterator[str]:
    """Yield in words what of the wish `rule` does not allow."""
    if missing := vids - rule.vids:
        yield f"VLAN {format_vlans(missing)}"
    if wish.trunk and not rule.trunk:
        yield "trunks"
    if wish.mac is not None and not rule.mac:
        yield "a MAC address of the job's choice"


def _refusal(
    wish: NicWish, vids: frozenset[int], namespace: str, matching: list[tuple[int, NetworkPolicy]]
) -> JobError:
    """Return the error. It names the rule that is closest to allowing the wish, if any."""
    what = f"VLAN {format_vlans(vids)}"
    if not matching:
        return JobError(
            f"{what} is not allowed: no network.policy of {_FILE} is for namespace {namespace!r}",
            hint=f"the operator adds a [[network.policy]] for it to {_FILE} on this node",
        )
    lacks = {number: list(_lacks(wish, vids, rule)) for number, rule in matching}
    closest = min(lacks, key=lambda number: len(lacks[number]))
    return JobError(
        f"{what} is not allowed: network.policy {closest} of {_FILE}, which is for namespace "
        f"{namespace!r}, does not allow {' and '.join(lacks[closest])}",
        hint=f"the operator changes [[network.policy]] number {closest} in {_FILE} on this node",
    )
