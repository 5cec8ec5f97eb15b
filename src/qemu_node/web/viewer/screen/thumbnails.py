"""Small pictures of the VMs that somebody sees, and screenshots.

Owns when QEMU is asked for a picture: when somebody asks us, not more often than pictures get old,
once for all who ask at the same time, for two VMs at a time, and with a deadline. Screens that
stay the same are looked at ever more rarely, until something tells that they may not. The one
picture that nobody asks for is that of a guest that has just ended: its last screen. A guest that
does not run is asked once: its screen does not change, and QEMU before 9.1 keeps a descriptor of
each.

Does not own what a picture costs too much (`pauses`) nor how it is made small (`jpeg`).
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from qemu_node.errors import NodeError
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.host.concurrency.threads import Worker
from qemu_node.qmp import commands
from qemu_node.qmp.connection import QmpRefusedError, QmpTimeoutError
from qemu_node.qmp.events import GuestPanicked, QmpEvent, Shutdown, typed
from qemu_node.web.fleet.model import VMView
from qemu_node.web.http.problems import Problem
from qemu_node.web.viewer.contract import VMs
from qemu_node.web.viewer.screen.jpeg import Thumbnail, make_thumbnail
from qemu_node.web.viewer.screen.pauses import Limits, Pause, Signs
from qemu_node.web.viewer.screen.ppm import PictureError

log = logging.getLogger(__name__)

DEADLINE_S = 2.0
"""For QEMU's picture."""
WAIT_S = 3.0
"""How long somebody who asks waits, also for others' pictures; then he gets the last one."""
AT_A_TIME = 2
SHOTS_AT_A_TIME = 4
"""Screenshots, apart from the small pictures: a QEMU may take long, and holds up no small one. A
hostile QEMU makes each one as large as it may be, and it is in memory until it is sent."""
ENDED = "ended"

_RUNNING = frozenset({"running", "unmanaged"})


@dataclass(slots=True, kw_only=True)
class _Kept:
    """What is kept of one VM."""

    thumbnail: Thumbnail | None = None
    signs: Signs = field(default_factory=Signs)
    """What was known of the VM then."""
    pause: Pause = field(default_factory=Pause)
    taking: "asyncio.Task[None] | None" = None
    error: NodeError | None = None
    """Why the last picture did not come."""
    is_at_rest: bool = False
    """The picture is of a guest that does not run."""
    is_over: bool = False
    """The VM has ended. If it runs again, it is another one."""


class Thumbnails:
    """The pictures of this node's VMs; for `async with`."""

    def __init__(self, fleet: VMs, *, limits: Limits | None = None) -> None:
        self._fleet = fleet
        self._limits = limits or Limits()
        self._kept: dict[str, _Kept] = {}
        self._slots = asyncio.Semaphore(AT_A_TIME)
        self._shooting: set[str] = set()
        self._shots = asyncio.Semaphore(SHOTS_AT_A_TIME)
        self._worker = Worker("thumbnails")
        self._tasks = TaskOwner("thumbnails")
        fleet.on_event(self._hear)
        fleet.on_end(self._note_end)
        fleet.on_forget(self._forget)

    async def __aenter__(self) -> "Thumbnails":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._tasks.aclose()
        self._worker.close()

    async def get(self, vm: VMView, *, has_one: bool = False) -> Thumbnail:
        """Return the picture of a VM: a new one if the last one is old, else the last one.

        Args:
            vm: As it is now.
            has_one: Who asks has a picture: one of a screen that stays the same is fresh for him
                for longer.

        Raises:
            Problem: there is none.
            NodeError: QEMU or the picture does not allow one.
        """
        kept = self._kept.get(vm.vm_id)
        if kept is None or (kept.is_over and vm.state != ENDED):
            kept = self._kept[vm.vm_id] = _Kept()
        if self._is_due(kept, vm, has_one=has_one):
            self._begin(vm.vm_id, kept)
        if kept.taking is not None:
            await asyncio.wait({kept.taking}, timeout=WAIT_S)
        if kept.thumbnail is not None:
            return kept.thumbnail
        raise kept.error or Problem(
            503, "no-picture", "there is no picture of this screen", hint="ask again later"
        )

    def fresh_s(self, vm: VMView) -> float:
        """Return how long the picture of a VM is fresh for somebody who has it."""
        kept = self._kept.get(vm.vm_id)
        if kept is None:
            return 0.0
        may_differ = _signs(vm).differ_from(kept.signs)
        return max(kept.pause.due_s(may_differ=may_differ) - self._now_s(), 0.0)

    @contextlib.asynccontextmanager
    async def screenshot(self, vm_id: str) -> AsyncIterator[bytes]:
        """Hold the screen of a VM that runs, a PNG file, inside the block; few are held at once.

        Raises:
            Problem: somebody else takes one of this VM now.
            VMNotFoundError: the VM does not run.
            QmpError: QEMU gives none.
        """
        if vm_id in self._shooting:
            raise Problem(
                429, "busy", "somebody else takes a screenshot of this VM", hint="try it again"
            )
        self._shooting.add(vm_id)
        try:
            async with self._shots:
                async with self._fleet.monitor(vm_id) as qmp:
                    picture = await commands.screendump_png(qmp)
                yield picture
        finally:
            self._shooting.discard(vm_id)

    def _is_due(self, kept: _Kept, vm: VMView, *, has_one: bool) -> bool:
        if kept.taking is not None or vm.state == ENDED:
            return False
        if vm.state in _RUNNING:
            kept.is_at_rest = False
        may_differ = not has_one or vm.viewers > 0 or _signs(vm).differ_from(kept.signs)
        return not kept.is_at_rest and kept.pause.is_due(self._now_s(), may_differ=may_differ)

    def _begin(self, vm_id: str, kept: _Kept) -> None:
        kept.taking = self._tasks.start(self._take(vm_id, kept), name=f"picture of {vm_id}")

    async def _take(self, vm_id: str, kept: _Kept) -> None:
        """Take one picture, and remember how it went."""
        try:
            async with self._slots:
                await self._take_now(vm_id, kept)
        except Exception as exc:
            # No descriptor or no memory is free; or a bug, which the next picture would meet again.
            kept.error = Problem(503, "no-picture", "the node could not make a picture")
            kept.pause = kept.pause.after_failure(self._now_s(), self._limits)
            is_bug = not isinstance(exc, OSError | MemoryError)
            log.warning(
                "no picture",
                extra={"vm_id": vm_id, "error": str(exc)},
                exc_info=exc if is_bug else None,
            )
        finally:
            kept.taking = None

    async def _take_now(self, vm_id: str, kept: _Kept) -> None:
        began_s = self._now_s()
        fd = os.memfd_create("screendump", os.MFD_CLOEXEC)
        try:
            async with asyncio.timeout(DEADLINE_S), self._fleet.monitor(vm_id) as qmp:
                await commands.screendump(qmp, fd, "ppm")
            took_s = self._now_s() - began_s
            size_bytes = os.fstat(fd).st_size
            made = await self._worker.to_the_end(make_thumbnail, fd, kept.thumbnail)
        except PictureError as exc:
            # The last picture is of another screen than the one that the guest has now.
            kept.error, kept.thumbnail = exc, None
            self._fleet.set_thumbnail(vm_id, "")
            kept.pause = kept.pause.after_failure(self._now_s(), self._limits)
        except (QmpRefusedError, QmpTimeoutError, TimeoutError) as exc:
            kept.error = exc if isinstance(exc, NodeError) else _too_slow()
            kept.pause = kept.pause.after_failure(self._now_s(), self._limits)
        except NodeError as exc:
            # QEMU cannot be reached yet, or any more: that costs nothing.
            kept.error = exc
            kept.pause = Pause(taken_s=self._now_s())
        else:
            is_same = made is kept.thumbnail
            self._keep(vm_id, kept, made)
            kept.pause = kept.pause.after_success(
                self._now_s(),
                took_s=took_s,
                size_bytes=size_bytes,
                limits=self._limits,
                is_same=is_same,
            )
        finally:
            os.close(fd)

    def _keep(self, vm_id: str, kept: _Kept, made: Thumbnail) -> None:
        vm = self._fleet.get(vm_id)
        kept.is_at_rest = vm is not None and vm.state not in _RUNNING
        kept.signs = Signs() if vm is None else _signs(vm)
        kept.error = None
        if made is not kept.thumbnail:
            kept.thumbnail = made
            self._fleet.set_thumbnail(vm_id, made.version)

    def _hear(self, vm_id: str, event: QmpEvent) -> None:
        """Take the last screen of a guest that has just ended, while its QEMU is there."""
        match typed(event):
            case GuestPanicked() | Shutdown(guest=True):
                kept = self._kept.setdefault(vm_id, _Kept())
                if kept.taking is None and self._now_s() >= kept.pause.until_s:
                    self._begin(vm_id, kept)
            case _:
                pass

    def _note_end(self, vm: VMView) -> None:
        if (kept := self._kept.get(vm.vm_id)) is not None:
            kept.is_over = True

    def _forget(self, vm_id: str) -> None:
        self._kept.pop(vm_id, None)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


def _signs(vm: VMView) -> Signs:
    return Signs(state=vm.state, cpu_pct=vm.cpu_pct)


def _too_slow() -> QmpTimeoutError:
    return QmpTimeoutError(f"QEMU made no picture of its screen within {DEADLINE_S:g} s")
