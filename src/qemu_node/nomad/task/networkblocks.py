"""From a job's `network` blocks to the NICs that this node gives its VM: pure.

Owns which options can be combined, and what a job without a block gets. Does not own the values of
one option (`options`) nor what the operator allows (`net.policy`).
"""

from collections.abc import Sequence

from qemu_node.config.network import NetworkConfig
from qemu_node.errors import JobError
from qemu_node.net.mac import stable_mac
from qemu_node.net.policy import decide
from qemu_node.net.portspec import NicIdentity, NicWish, PortSpec, UserPort
from qemu_node.nomad.task.options import NetworkOptions, TaskOptions
from qemu_node.vm.names import TaskIdentity
from qemu_node.vm.start.request import Advertise

_PORT_ONLY = ("vlan", "trunk", "mac", "isolated", "queues", "mtu", "rate", "advertise")
"""Options that need a port of the bridge."""

_FILE = "node.toml"


def plan_nics(
    options: TaskOptions, identity: TaskIdentity, network: NetworkConfig
) -> tuple[UserPort | PortSpec, ...]:
    """Return the task's NICs in the order of its blocks; without a block, one default NIC.

    Raises:
        JobError: options contradict each other or the node's settings, or a rule of the operator
            does not allow them. The message names the option, or the rule and its file.
    """
    blocks = options.network or (NetworkOptions(),)
    for block in blocks:
        _check_block(block, network)
    nics = tuple(
        decide(
            _wish(block),
            identity.namespace,
            network,
            NicIdentity(
                vm_id=identity.vm_id,
                index=index,
                mac=stable_mac(identity.alloc_id, identity.task, index),
            ),
        )
        for index, block in enumerate(blocks)
    )
    _check_together(options, blocks, nics)
    return nics


def plan_advertise(options: TaskOptions, nics: Sequence[UserPort | PortSpec]) -> Advertise | None:
    """Return which NIC's address Nomad's services get, and how long the start waits for it.

    Raises:
        JobError: two NICs are to be advertised, or one in user mode.
    """
    asked = [
        Advertise(nic=index, wait_s=wait_s)
        for index, block in enumerate(options.network)
        if (wait_s := block.advertise_s) is not None
    ]
    if len(asked) > 1:
        raise JobError(
            'option "network.advertise" is in two blocks', hint="a task has one address for Nomad"
        )
    if asked and isinstance(nics[asked[0].nic], UserPort):
        raise JobError(
            'option "network.advertise" is for a NIC in a VLAN; no host reaches one in user mode',
            hint="use `ports`, which Nomad advertises with the node's address",
        )
    return asked[0] if asked else None


def _check_block(block: NetworkOptions, network: NetworkConfig) -> None:
    """Raise for a block that contradicts itself, or needs a default that the node lacks."""
    if block.mode == "user":
        defaults = NetworkOptions()
        for name in _PORT_ONLY:
            if getattr(block, name) != getattr(defaults, name):
                raise JobError(
                    f'option "network.{name}" is for a NIC in a VLAN, and "network.mode" is "user"',
                    hint="leave one of the two out",
                )
    if block.vlan is not None and block.trunk:
        raise JobError(
            'options "network.vlan" and "network.trunk" are in one block',
            hint="a NIC has one VLAN, untagged, or several, tagged; give the VM two NICs",
        )
    is_default = block.vlan is None and not block.trunk
    if block.mode == "vlan" and is_default and not network.default_vlan:
        raise JobError(
            'option "network.mode" is "vlan" and the block names none',
            hint=f"set vlan or trunk; this node has no network.default_vlan in {_FILE}",
        )


def _wish(block: NetworkOptions) -> NicWish:
    return NicWish(
        is_user=block.mode == "user",
        vlan=block.vlan,
        trunk=block.trunk_vids,
        mac=block.mac_address,
        isolated=block.isolated,
        queues=block.queues,
        mtu=block.mtu,
        rate_mbit=block.rate,
    )


def _check_together(
    options: TaskOptions,
    blocks: Sequence[NetworkOptions],
    nics: Sequence[UserPort | PortSpec],
) -> None:
    """Raise for NICs that one VM cannot have together."""
    user_nics = sum(isinstance(nic, UserPort) for nic in nics)
    if user_nics > 1:
        raise JobError(
            'option "network.mode" is "user" for two NICs, by itself or by default',
            hint="both would have the same address; one NIC in user mode reaches all",
        )
    if options.ports and not user_nics:
        raise JobError(
            'option "ports" needs a NIC in user mode, and the task has none',
            hint='reach the guest at its own address, or add network { mode = "user" }',
        )
    chosen = [block.mac_address for block in blocks if block.mac_address is not None]
    if len(set(chosen)) < len(chosen):
        raise JobError('option "network.mac" gives two NICs the same address')
