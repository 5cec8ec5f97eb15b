"""What somebody can be allowed to do with a VM or the node: pure.

Owns the names, and which capability of Nomad's ACLs each needs. Does not own evaluating them
(`nomadacl`).
"""

from enum import StrEnum

from qemu_node.web.access.acl.nomadacl import Acl


class Right(StrEnum):
    """One kind of action. The value is its name in audit lines and in the API."""

    SEE = "see"
    """Know that a VM is there and how it is."""
    VIEW = "view"
    """Look at its screen without touching it; read its log."""
    CONTROL = "control"
    """Type into its screen and serial port; ask its guest agent."""
    AGENT_EXEC = "agent-exec"
    """Run a program in the guest, where its job allows that."""
    POWER = "power"
    """Reset it, press its power button, stop and restart its task."""
    NODE = "node"
    """See what concerns the whole node."""
    METRICS = "metrics"
    """Collect the figures of the node and of all its VMs."""


OF_NODE = frozenset({Right.NODE, Right.METRICS})
"""Rights that concern no VM, so no namespace."""


CAPABILITIES: dict[Right, frozenset[str]] = {
    Right.SEE: frozenset({"read-job"}),
    Right.VIEW: frozenset({"read-job", "read-logs"}),
    Right.CONTROL: frozenset({"read-job", "alloc-exec"}),
    Right.AGENT_EXEC: frozenset({"read-job", "alloc-exec"}),
    Right.POWER: frozenset({"read-job", "alloc-lifecycle"}),
}
"""What a token needs in the namespace of the VM's job. Those of `OF_NODE` are `node:read`, which no
namespace gives."""


def allows(acl: Acl, right: Right, namespace: str | None) -> bool:
    """Tell whether `acl` gives a right.

    Args:
        acl: Whose.
        right: What is asked for.
        namespace: Of a VM's job; None: what is asked for concerns the node.
    """
    if right in OF_NODE:
        return acl.may_read_node
    if namespace is None:
        return acl.is_management
    return all(acl.allows(namespace, capability) for capability in CAPABILITIES[right])
