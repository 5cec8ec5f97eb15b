"""What a request was found to be allowed: what a handler is given."""

from collections.abc import Iterable
from dataclasses import dataclass

from qemu_node.web.access.acl.rights import Right
from qemu_node.web.access.session.sessions import Session
from qemu_node.web.fleet.model import VMView


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Somebody may do something now."""

    user: str
    """For audit lines: the token's name and accessor."""
    right: Right
    session: Session
    """Who it is. Its rights change if Nomad says so, also while a stream goes on."""

    @property
    def token(self) -> str | None:
        """His token of Nomad, for what is asked of Nomad in his name; None: he has none."""
        return self.session.token

    def allows(self, right: Right, vm: VMView | None) -> bool:
        """Tell whether he has another right as well; None: on the node."""
        return self.session.allows(right, None if vm is None else vm.namespace)

    def visible(self, vms: Iterable[VMView]) -> list[VMView]:
        """Return those of `vms` that he may see."""
        return [vm for vm in vms if self.allows(Right.SEE, vm)]
