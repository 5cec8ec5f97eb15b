"""The VMs of the cluster's other nodes, as Nomad lists them for the user's own token.

Owns where their consoles are. Does not own how a user gets in there (`login`): with a one-time
token, on the other node.
"""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from qemu_node.text import printable
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.api.nomadtasks import Allocation, ClusterNode, NomadTasks
from qemu_node.web.frame.route import Call, Route

CONSOLE_ATTRIBUTE = "driver.vm.console"
"""With which a node's driver says where its console is: `https://host:port`, `:port` of the address
that Nomad knows, or empty for none. An older driver says nothing: then it is the usual port."""

_PORT = 5800
_IS_PORT = re.compile(r":[0-9]{1,5}")
_ROWS_MAX = 20_000


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the cluster that runs VMs."""

    id: str
    name: str
    console: str
    """The address of its console, as Nomad knows it."""
    status: str
    is_healthy: bool
    """Whether its driver for VMs works."""
    is_eligible: bool


class VMRow(msgspec.Struct, frozen=True, kw_only=True):
    """A VM of the cluster, as Nomad knows it."""

    alloc_id: str
    name: str
    namespace: str
    job: str
    group: str
    node_id: str
    node: str
    state: str
    """Nomad's word for the allocation: `pending`, `running`, `complete`, `failed`, `lost`."""


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster; without Nomad it is empty."""

    nodes: list[NodeRow]
    """Empty for a token without `node:read`."""
    vms: list[VMRow]


class ClusterRoutes:
    """The handler."""

    def __init__(self, nomad: NomadTasks) -> None:
        self._nomad = nomad

    def routes(self) -> tuple[Route, ...]:
        """Return the table."""
        return (
            Route(
                method="GET",
                path="/api/v1/cluster",
                right=Right.SEE,
                handler=self._show,
                summary="List the cluster's nodes and VMs that your token may see.",
                answer=ClusterView,
            ),
        )

    async def _show(self, call: Call) -> ClusterView:
        if not self._nomad.is_there:
            return ClusterView(nodes=[], vms=[])
        token = call.the_grant.token
        nodes = await self._nomad.nodes(token)
        return cluster_view(nodes, await self._nomad.vm_allocations(token))


def cluster_view(nodes: Iterable[ClusterNode], vms: Iterable[Allocation]) -> ClusterView:
    """Return what is shown of the cluster: pure."""
    rows = [row for node in nodes if (row := _node_row(node)) is not None]
    return ClusterView(
        nodes=sorted(rows, key=lambda row: (row.name, row.id)),
        vms=sorted(map(_vm_row, vms), key=lambda row: (row.namespace, row.name, row.alloc_id))[
            :_ROWS_MAX
        ],
    )


def console_of(node: ClusterNode) -> str:
    """Return the address of a node's console; empty if Nomad does not know the node's: pure."""
    driver = node.vm_driver
    usual = f":{_PORT}"
    said = usual if driver is None else (driver.attributes or {}).get(CONSOLE_ATTRIBUTE, usual)
    if _IS_PORT.fullmatch(said):
        host = f"[{node.address}]" if ":" in node.address else node.address
        return f"https://{printable(host)}{said}" if host else ""
    try:
        parts = urlsplit(said)
    except ValueError:
        return ""
    # It becomes a link.
    is_plain = parts.scheme in ("https", "http") and parts.hostname and not parts.username
    return f"{parts.scheme}://{parts.netloc}" if is_plain else ""


def _node_row(node: ClusterNode) -> NodeRow | None:
    driver = node.vm_driver
    if driver is None:
        return None
    return NodeRow(
        id=printable(node.id),
        name=printable(node.name),
        console=console_of(node),
        status=printable(node.status),
        is_healthy=driver.healthy,
        is_eligible=node.scheduling_eligibility == "eligible",
    )


def _vm_row(allocation: Allocation) -> VMRow:
    return VMRow(
        alloc_id=printable(allocation.id),
        name=printable(allocation.name),
        namespace=printable(allocation.namespace),
        job=printable(allocation.job_id),
        group=printable(allocation.task_group),
        node_id=printable(allocation.node_id),
        node=printable(allocation.node_name),
        state=printable(allocation.client_status),
    )
