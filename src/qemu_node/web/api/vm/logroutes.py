"""What a guest has printed, and what Nomad says of its task.

Owns the bounds, and who is asked: Nomad with the user's token where there is one, else the files.
Does not own the log (`inventory.consolelog`).
"""

from datetime import UTC, datetime

import msgspec
from aiohttp import web

from qemu_node.config.node import Paths
from qemu_node.errors import HostError
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.inventory.consolelog import ConsoleLog, unlogged
from qemu_node.text import printable
from qemu_node.units import KIB, MIB
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.access.session.grant import Grant
from qemu_node.web.api.nomadtasks import NomadTasks, TaskEvent
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.fleet.model import VMView
from qemu_node.web.frame.route import VM_PATH, Call, Query, Route

LINES_MAX = 10_000
LOG_MAX_BYTES = 1 * MIB
_LINES = 200
_LINE_BYTES = 256
_EVENTS_MAX = 50


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a task."""

    at: str
    kind: str
    message: str


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    """What Nomad says of a VM's task, the newest first; without Nomad nothing."""

    state: str
    restarts: int
    events: list[EventView]


class LogRoutes:
    """The handlers."""

    def __init__(self, fleet: Fleet, nomad: NomadTasks, paths: Paths) -> None:
        self._fleet = fleet
        self._nomad = nomad
        self._paths = paths

    def routes(self) -> tuple[Route, ...]:
        """Return the table."""
        return (
            Route(
                method="GET",
                path=f"{VM_PATH}/log",
                right=Right.VIEW,
                handler=self._log,
                summary="Return the last lines that a guest has printed, as it printed them.",
                content_type="text/plain",
                query=(
                    Query(
                        name="lines", summary="How many.", least=1, most=LINES_MAX, default=_LINES
                    ),
                ),
            ),
            Route(
                method="GET",
                path=f"{VM_PATH}/events",
                right=Right.SEE,
                handler=self._events,
                summary="Say what has happened to a VM's task, as Nomad knows it.",
                answer=EventList,
            ),
        )

    async def _log(self, call: Call) -> web.Response:
        data = await self.read(call.the_vm, call.the_grant, call.numbers["lines"])
        # Never HTML, and never shown in the console's origin: a guest has written it.
        headers = {"Cache-Control": "no-store", "Content-Disposition": "attachment"}
        return web.Response(
            body=data,
            content_type="text/plain",
            charset="utf-8",
            headers=headers,
        )

    async def read(self, vm: VMView, grant: Grant, lines: int) -> bytes:
        """Return the last `lines` lines that a guest has printed.

        Raises:
            NodeError: Nomad or the node refuses.
        """
        if self._nomad.is_there:
            max_bytes = min(max(lines * _LINE_BYTES, 64 * KIB), LOG_MAX_BYTES)
            data = await self._nomad.log(vm.alloc_id, vm.task, max_bytes, grant.token)
        else:
            data = await to_the_end(self._read, vm.vm_id, lines)
        return last_lines(data[-LOG_MAX_BYTES:], lines)

    def _read(self, vm_id: str, lines: int) -> bytes:
        record = self._fleet.last_record(vm_id)
        if record is None:
            return b""
        log = ConsoleLog.of(record)
        data = bytearray()
        try:
            log.skip_to_last(lines)
            while len(data) < LOG_MAX_BYTES and (chunk := log.read()):
                data += chunk
        except HostError:
            # In a thread: without its ages, for which the loop is asked.
            view = self._fleet.state().get(vm_id)
            if view is None or view.end is None:
                raise
            # The log of an ended VM may be gone with its allocation.
        return bytes(data + (unlogged(self._paths, record) or b""))

    async def _events(self, call: Call) -> EventList:
        vm = call.the_vm
        if not self._nomad.is_there:
            return EventList(state="", restarts=0, events=[])
        allocation = await self._nomad.allocation(vm.alloc_id, call.the_grant.token)
        task = (allocation.task_states or {}).get(vm.task)
        if task is None:
            return EventList(state=printable(allocation.client_status), restarts=0, events=[])
        newest = sorted(task.events or (), key=lambda event: -event.time)[:_EVENTS_MAX]
        return EventList(
            state=printable(task.state),
            restarts=task.restarts,
            events=[_event(event) for event in newest],
        )


def last_lines(data: bytes, lines: int) -> bytes:
    """Return the last `lines` lines of `data`: pure."""
    end = len(data) - 1 if data.endswith(b"\n") else len(data)
    for _ in range(lines):
        end = data.rfind(b"\n", 0, end)
        if end < 0:
            return data
    return data[end + 1 :]


def _event(event: TaskEvent) -> EventView:
    seconds = min(max(event.time / 1e9, 0.0), 4e9)
    return EventView(
        at=datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        kind=printable(event.type),
        message=printable(event.display_message),
    )
