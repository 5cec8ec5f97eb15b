"""What is asked of Nomad about allocations and nodes, with the user's own token.

Owns the paths and what is read of the answers. Does not own the connection (`nomadapi`). Seen with
Nomad 2.0.6.
"""

from typing import Any, TypeVar

import msgspec

from qemu_node.web.access.acl.nomadapi import NomadApi, NomadError, NomadRefusedError, quoted
from qemu_node.web.http.problems import Problem

T = TypeVar("T")

_DRIVER = "vm"
_HAS_VM = f'any Job.TaskGroups as g {{ any g.Tasks as t {{ t.Driver == "{_DRIVER}" }} }}'
"""Evaluated against whole allocations (go-bexpr), although the answer has stubs without drivers."""


class TaskEvent(msgspec.Struct, frozen=True, rename="pascal"):
    """An item of `Events` (structs.TaskEvent)."""

    type: str = ""
    display_message: str = ""
    time: int = 0
    """Nanoseconds since 1970."""


class TaskState(msgspec.Struct, frozen=True, rename="pascal"):
    """A task within an allocation (structs.TaskState)."""

    state: str = ""
    failed: bool = False
    restarts: int = 0
    started_at: str | None = None
    events: tuple[TaskEvent, ...] | None = None


class Allocation(msgspec.Struct, frozen=True, rename="pascal"):
    """GET /v1/allocation/:id, and an item of GET /v1/allocations."""

    id: str = msgspec.field(name="ID", default="")
    name: str = ""
    namespace: str = ""
    job_id: str = msgspec.field(name="JobID", default="")
    task_group: str = ""
    node_id: str = msgspec.field(name="NodeID", default="")
    node_name: str = ""
    client_status: str = ""
    task_states: dict[str, TaskState] | None = None


class _DriverAttributes(msgspec.Struct, frozen=True, rename="pascal"):
    detected: bool = False
    healthy: bool = False
    attributes: dict[str, str] | None = None


class ClusterNode(msgspec.Struct, frozen=True, rename="pascal"):
    """An item of GET /v1/nodes."""

    id: str = msgspec.field(name="ID", default="")
    name: str = ""
    address: str = ""
    status: str = ""
    scheduling_eligibility: str = ""
    drivers: dict[str, _DriverAttributes] | None = None

    @property
    def vm_driver(self) -> _DriverAttributes | None:
        """Its driver for VMs; None if it has none."""
        driver = (self.drivers or {}).get(_DRIVER)
        return driver if driver is not None and driver.detected else None


class NomadTasks:
    """The agent, asked about tasks; without Nomad there is none to ask."""

    def __init__(self, api: NomadApi | None) -> None:
        self._api = api

    @property
    def is_there(self) -> bool:
        """Whether this console belongs to a Nomad."""
        return self._api is not None

    async def restart(self, alloc_id: str, task: str, token: str | None) -> None:
        """Have the client stop a task and start it again in the same allocation.

        Raises:
            Problem: Nomad said no, or does not answer.
        """
        path = f"/v1/client/allocation/{quoted(alloc_id)}/restart"
        await self._do(path, {"TaskName": task}, token)

    async def stop(self, alloc_id: str, token: str | None) -> None:
        """Have Nomad stop an allocation. Its job goes on: Nomad places another one.

        Raises:
            Problem: likewise.
        """
        await self._do(f"/v1/allocation/{quoted(alloc_id)}/stop", {}, token)

    async def log(self, alloc_id: str, task: str, max_bytes: int, token: str | None) -> bytes:
        """Return the end of what a task has printed.

        Raises:
            Problem: likewise.
        """
        query = f"task={quoted(task)}&type=stdout&plain=true&origin=end&offset={max_bytes}"
        try:
            return await self._known().read(
                f"/v1/client/fs/logs/{quoted(alloc_id)}?{query}", token=token
            )
        except (NomadError, NomadRefusedError) as exc:
            raise problem_of_nomad(exc) from exc

    async def allocation(self, alloc_id: str, token: str | None) -> Allocation:
        """Return an allocation with its tasks' events.

        Raises:
            Problem: likewise.
        """
        return await self._ask(f"/v1/allocation/{quoted(alloc_id)}", Allocation, token)

    async def vm_allocations(self, token: str | None) -> list[Allocation]:
        """Return all allocations of the cluster that have a VM and whose owner may see them.

        Raises:
            Problem: likewise.
        """
        # Without the events of all tasks, which are most of the answer.
        query = f"namespace=*&task_states=false&filter={quoted(_HAS_VM)}"
        return await self._ask(f"/v1/allocations?{query}", list[Allocation], token)

    async def nodes(self, token: str | None) -> list[ClusterNode]:
        """Return the nodes of the region; empty for whoever may not see them.

        Raises:
            Problem: Nomad does not answer.
        """
        try:
            return await self._ask("/v1/nodes", list[ClusterNode], token)
        except Problem as exc:
            if exc.status != 403:
                raise
            return []

    async def _do(self, path: str, body: dict[str, Any], token: str | None) -> None:
        try:
            await self._known().post(path, body, dict[str, Any], token=token)
        except (NomadError, NomadRefusedError) as exc:
            raise problem_of_nomad(exc) from exc

    async def _ask(self, path: str, kind: type[T], token: str | None) -> T:
        try:
            return await self._known().get_large(path, kind, token=token)
        except (NomadError, NomadRefusedError) as exc:
            raise problem_of_nomad(exc) from exc

    def _known(self) -> NomadApi:
        if self._api is None:
            raise Problem(
                409,
                "no-nomad",
                "this VM does not belong to a Nomad",
                hint="`qemu-node run` has started it, and ends it",
            )
        return self._api


def problem_of_nomad(exc: NomadError | NomadRefusedError) -> Problem:
    """Return what a client is told of an answer of Nomad, or that there was none: pure."""
    if isinstance(exc, NomadRefusedError):
        status = {403: 403, 404: 404}.get(exc.status, 502)
        # Without read-job Nomad answers 500 `Unknown allocation`.
        return Problem(status, "nomad-refused", str(exc), hint="Nomad decides this by your token")
    return Problem(503, "nomad-silent", str(exc), hint=exc.hint)
