"""A VM's buttons, and what Nomad does with its task.

Owns which of them is refused, and that stop and restart are Nomad's where there is one: it would
otherwise start again what was stopped here. Does not own the end of a VM (`vm.life`).
"""

import logging

import msgspec

from qemu_node.errors import NodeError
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.inventory.reset import refusal
from qemu_node.inventory.stop import Stopper
from qemu_node.qmp import commands
from qemu_node.qmp.events import RunState
from qemu_node.text import printable
from qemu_node.vm.life.stopladder import plan_stop
from qemu_node.vm.record.record import VMRecord
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.api.nomadtasks import NomadTasks
from qemu_node.web.api.vm.vmroutes import live_record
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.frame.route import VM_PATH, Call, Handler, Route
from qemu_node.web.http.problems import Problem

log = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 30.0
"""What a guest gets before force is used, without a Nomad that says so."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """It was asked for."""

    message: str
    """What follows from it, in words."""


class PowerRoutes:
    """The handlers."""

    def __init__(self, fleet: Fleet, nomad: NomadTasks, tasks: TaskOwner) -> None:
        """Use `tasks` for stops that go on after the answer."""
        self._fleet = fleet
        self._nomad = nomad
        self._tasks = tasks
        self._stopping: set[str] = set()

    def routes(self) -> tuple[Route, ...]:
        """Return the table."""
        return (
            _route("power-button", self._press, "Press a VM's power button."),
            _route("reset", self._reset, "Reset a VM, as the reset button does."),
            _route("stop", self._stop, "Stop a VM's allocation, by Nomad if there is one."),
            _route("restart", self._restart, "Have Nomad restart a VM's task."),
        )

    async def _press(self, call: Call) -> Done:
        record = live_record(self._fleet, call.the_vm)
        async with self._fleet.monitor(record.vm_id) as qmp:
            status = await commands.query_status(qmp)
            if status.status is not RunState.RUNNING:
                raise Problem(
                    409,
                    "not-running",
                    f"{record.vm_id} does not run: QEMU says {status.status}",
                    hint="only a guest that runs notices its power button",
                )
            await commands.system_powerdown(qmp)
        return Done(message="the power button was pressed; the guest decides what follows")

    async def _reset(self, call: Call) -> Done:
        record = live_record(self._fleet, call.the_vm)
        async with self._fleet.monitor(record.vm_id) as qmp:
            refused = refusal(await commands.query_status(qmp), record.vm_id)
            if refused is not None:
                raise Problem(409, "not-running", str(refused), hint=refused.hint)
            await commands.system_reset(qmp)
        return Done(message="the guest was reset; it boots again")

    async def _stop(self, call: Call) -> Done:
        record = live_record(self._fleet, call.the_vm)
        if self._nomad.is_there:
            await self._nomad.stop(record.identity.alloc_id, call.the_grant.token)
            return Done(
                message="Nomad stops the allocation; its job goes on, and may be placed again"
            )
        if record.vm_id not in self._stopping:
            self._stopping.add(record.vm_id)
            self._fleet.set_stop_error(record.vm_id, "")
            _ = self._tasks.start(self._end(record), name=f"stop {record.vm_id}")
        return Done(message=f"the guest is shut down; after {_STOP_TIMEOUT_S:g} s by force")

    async def _restart(self, call: Call) -> Done:
        record = live_record(self._fleet, call.the_vm)
        identity = record.identity
        await self._nomad.restart(identity.alloc_id, identity.task, call.the_grant.token)
        return Done(message="Nomad stops the task and starts it again")

    async def _end(self, record: VMRecord) -> None:
        def tell(line: str) -> None:
            log.info("stopping a VM", extra={"vm_id": record.vm_id, "step": line})

        try:
            await Stopper(record, tell).run(plan_stop(_STOP_TIMEOUT_S))
        except Exception as exc:
            is_bug = not isinstance(exc, NodeError)
            words = "a bug: see the console's log" if is_bug else printable(str(exc))
            self._fleet.set_stop_error(record.vm_id, words)
            log.warning(
                "VM not stopped",
                extra={"vm_id": record.vm_id, "error": str(exc)},
                exc_info=exc if is_bug else None,
            )
        finally:
            self._stopping.discard(record.vm_id)


def _route(name: str, handler: Handler, summary: str) -> Route:
    return Route(
        method="POST",
        path=f"{VM_PATH}/{name}",
        right=Right.POWER,
        handler=handler,
        summary=summary,
        answer=Done,
    )
