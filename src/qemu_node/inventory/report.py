"""All there is to know about one VM, asked of its QEMU and of its guest at the same time.

Owns the questions of `vm show` and the bound on each. A QEMU or guest that does not answer costs
its own part of the report and nothing else. Does not own how it is shown (`cli.vm.table`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from qemu_node.errors import GuestAgentError, HostError, QmpError
from qemu_node.inventory.access import agent_of, connect_monitor
from qemu_node.inventory.state import VMSummary
from qemu_node.qga.agent import GuestAgent
from qemu_node.qga.replies import GuestInterface
from qemu_node.vm.life.guestnet import GuestNetwork
from qemu_node.vm.record.record import VMRecord

_TIMEOUT_S = 3.0
"""For an answer. People wait for the report, and a guest without an agent is common."""
_DETAILS_TIMEOUT_S = 5.0
"""For everything else that is asked of an agent that answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentReport:
    """What the guest says of itself; empty where it does not say."""

    version: str
    host_name: str = ""
    os: str = ""
    kernel: str = ""
    interfaces: tuple[GuestInterface, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VMReport:
    """One VM: what is written down, and what QEMU and the guest said when asked."""

    record: VMRecord
    summary: VMSummary
    run_state: str | None = None
    qemu_version: str | None = None
    qemu_problem: str | None = None
    """Why the two above are not known."""
    agent: AgentReport | None = None
    agent_problem: str | None = None


async def report_on(record: VMRecord, summary: VMSummary) -> VMReport:
    """Return the report; takes at most a few seconds."""
    if summary.pid is None:
        gone = "its process is gone"
        return VMReport(record=record, summary=summary, qemu_problem=gone, agent_problem=gone)
    async with asyncio.TaskGroup() as group:
        qemu = group.create_task(_ask_qemu(record))
        guest = group.create_task(_ask_guest(agent_of(record)))
    run_state, version, qemu_problem = qemu.result()
    agent, agent_problem = guest.result()
    return VMReport(
        record=record,
        summary=summary,
        run_state=run_state,
        qemu_version=version,
        qemu_problem=qemu_problem,
        agent=agent,
        agent_problem=agent_problem,
    )


async def ask_networks(vms: Sequence[VMSummary]) -> dict[str, GuestNetwork]:
    """Return the guests' names and addresses, by vm_id; the silent ones are left out."""
    asked = [(vm.vm_id, vm.record) for vm in vms if vm.record is not None and vm.pid is not None]
    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(_ask_network(record)) for _, record in asked]
    return {
        vm_id: network
        for (vm_id, _), answer in zip(asked, answers, strict=True)
        if (network := answer.result()) is not None
    }


async def _ask_network(record: VMRecord) -> GuestNetwork | None:
    agent = agent_of(record)
    try:
        host_name, interfaces = await agent.network_identity(timeout_s=_TIMEOUT_S)
    except (GuestAgentError, HostError):
        # HostError: the lock file of the agent's socket may be another user's.
        return None
    return GuestNetwork.of(host_name, interfaces, record.nics)


async def _ask_qemu(record: VMRecord) -> tuple[str | None, str | None, str | None]:
    """Return run state, version, and why they are not known."""
    # It takes long to import: see `connect_monitor`.
    from qemu_node.qmp import commands

    try:
        async with await connect_monitor(record, timeout_s=_TIMEOUT_S) as qmp:
            status = await commands.query_status(qmp, timeout_s=_TIMEOUT_S)
            version = await commands.query_version(qmp)
    except QmpError as exc:
        return None, None, str(exc)
    return status.status.value, f"{version.major}.{version.minor}.{version.micro}", None


async def _ask_guest(agent: GuestAgent) -> tuple[AgentReport | None, str | None]:
    """Return what the guest says of itself, and why it is not known."""
    try:
        version = (await agent.info(timeout_s=_TIMEOUT_S)).version
    except (GuestAgentError, HostError) as exc:
        return None, str(exc)
    try:
        async with asyncio.timeout(_DETAILS_TIMEOUT_S):
            host_name = await agent.host_name()
            system = await agent.osinfo()
            interfaces = await agent.network_interfaces()
    except (GuestAgentError, TimeoutError):
        # An agent may have these switched off; that it answers is worth showing.
        return AgentReport(version=version), None
    return AgentReport(
        version=version,
        host_name=host_name,
        os=system.pretty_name or system.name,
        kernel=system.kernel_release,
        interfaces=tuple(interfaces),
    ), None
