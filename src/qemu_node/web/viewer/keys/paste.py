"""Pastes: text that is typed into a guest, one at a time for each VM, with progress.

Owns a paste from its beginning to the word about its end, which is kept until the VM's next one.
The text is kept no longer than it is typed, and is in no log: it may be a password.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from qemu_node.errors import NodeError
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.qmp.events import QmpEvent
from qemu_node.web.fleet.model import VMView
from qemu_node.web.http.problems import Problem
from qemu_node.web.viewer.contract import VMs
from qemu_node.web.viewer.keys.layouts import DEFAULT, Stroke
from qemu_node.web.viewer.keys.typist import check_running, type_strokes

PER_SECOND: Final = 100
PER_SECOND_MAX: Final = 200

_ENDINGS: Final = {
    "RESET": "the guest was reset",
    "STOP": "the guest was paused",
    "SUSPEND": "the guest was suspended",
    "SHUTDOWN": "the guest has ended",
    "GUEST_PANICKED": "the guest's kernel panicked",
}
"""Events after which no key reaches what the text was meant for."""


_NOT_ANY_MORE: Final = "whoever pasted may not type into this VM any more"


class PasteBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to type."""

    text: Annotated[str, msgspec.Meta(min_length=1)]
    layout: str = DEFAULT
    """The keyboard layout of the guest."""
    per_second: Annotated[int, msgspec.Meta(ge=1, le=PER_SECOND_MAX)] = PER_SECOND
    """Keys in a second; fewer, if the guest loses some."""


class PasteState(StrEnum):
    """How far a paste is."""

    TYPING = "typing"
    DONE = "done"
    ABORTED = "aborted"
    """By somebody, or because something happened to the guest."""
    FAILED = "failed"


class PasteView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A paste as its client sees it."""

    id: str
    state: PasteState
    typed: int
    """Characters that were typed."""
    characters: int
    message: str = ""
    """Why it ended before all were typed."""


class _Aborted(NodeError):
    """A paste is to end."""


@dataclass(slots=True, kw_only=True)
class _Paste:
    id: str
    characters: int
    state: PasteState = PasteState.TYPING
    typed: int = 0
    message: str = ""
    task: "asyncio.Task[NodeError | None] | None" = None

    def view(self) -> PasteView:
        return PasteView(
            id=self.id,
            state=self.state,
            typed=self.typed,
            characters=self.characters,
            message=self.message,
        )

    def note_typed(self, typed: int) -> None:
        self.typed = typed

    def note_end(self, task: "asyncio.Task[NodeError | None]") -> None:
        # Also of a task that was cancelled before it began.
        if task.cancelled():
            self.state, self.message = PasteState.ABORTED, self.message or "the console ends"
        elif task.exception() is not None:
            self.state, self.message = PasteState.FAILED, "the daemon failed; its log says why"
        elif (error := task.result()) is None:
            self.state = PasteState.DONE
        else:
            is_abort = isinstance(error, _Aborted)
            self.state = PasteState.ABORTED if is_abort else PasteState.FAILED
            self.message = error.explain()

    def stop(self, why: str) -> None:
        if self.state is PasteState.TYPING and self.task is not None:
            self.message = self.message or why
            self.task.cancel()


class Pastes:
    """All pastes of this process; for `async with`."""

    def __init__(self, fleet: VMs) -> None:
        self._fleet = fleet
        self._pastes: dict[str, _Paste] = {}
        """By vm_id, the last one of each."""
        self._tasks = TaskOwner("pastes")
        fleet.on_event(self._hear)
        fleet.on_end(lambda vm: self._stop(vm, "the VM has ended"))
        fleet.on_forget(lambda vm_id: self._pastes.pop(vm_id, None))

    async def __aenter__(self) -> "Pastes":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._tasks.aclose()

    def is_typing(self, vm_id: str) -> bool:
        """Tell whether something is typed into a VM now."""
        paste = self._pastes.get(vm_id)
        return paste is not None and paste.state is PasteState.TYPING

    async def start(
        self,
        vm_id: str,
        characters: Sequence[Sequence[Stroke]],
        *,
        per_second: int,
        may_go_on: Callable[[], bool],
        session: AbstractAsyncContextManager[None],
    ) -> PasteView:
        """Begin to type.

        Args:
            vm_id: Into which VM.
            characters: The strokes of each.
            per_second: Strokes in a second.
            may_go_on: Asked again and again whether whoever pastes still may.
            session: Of whoever pastes. It is entered while something is typed: then his rights are
                asked again from time to time, and its end ends the paste.

        Raises:
            Problem: another paste runs, or the guest does not.
            NodeError: QEMU is out of reach.
        """
        async with self._fleet.monitor(vm_id) as qmp:
            await check_running(qmp)
        if self.is_typing(vm_id):
            raise Problem(
                409, "paste-runs", "another text is being typed into this VM", hint="abort it"
            )
        paste = _Paste(id=secrets.token_hex(8), characters=len(characters))

        def look() -> None:
            if not may_go_on():
                raise _Aborted(_NOT_ANY_MORE)

        async def type_all() -> NodeError | None:
            is_whole = False
            try:
                async with session:
                    await type_strokes(
                        self._fleet,
                        vm_id,
                        characters,
                        per_second=per_second,
                        look=look,
                        on_typed=paste.note_typed,
                    )
                    is_whole = True
            except NodeError as exc:
                return exc
            # Else the block was left because the session has ended.
            return None if is_whole else _Aborted(_NOT_ANY_MORE)

        self._pastes[vm_id] = paste
        paste.task = self._tasks.start(type_all(), name=f"paste {paste.id}")
        paste.task.add_done_callback(paste.note_end)
        return paste.view()

    def get(self, vm_id: str, paste_id: str) -> PasteView:
        """Return how far a paste is.

        Raises:
            Problem: there is no such paste, or a later one.
        """
        return self._find(vm_id, paste_id).view()

    async def abort(self, vm_id: str, paste_id: str) -> PasteView:
        """End a paste, release the modifiers, and return how far it came.

        Raises:
            Problem: there is no such paste.
        """
        paste = self._find(vm_id, paste_id)
        paste.stop("aborted")
        if paste.task is not None:
            await asyncio.wait({paste.task})
        return paste.view()

    def _find(self, vm_id: str, paste_id: str) -> _Paste:
        paste = self._pastes.get(vm_id)
        if paste is None or paste.id != paste_id:
            raise Problem(404, "no-such-paste", "there is no such paste, or a later one")
        return paste

    def _hear(self, vm_id: str, event: QmpEvent) -> None:
        paste = self._pastes.get(vm_id)
        if paste is not None and event.name in _ENDINGS:
            paste.stop(_ENDINGS[event.name])

    def _stop(self, vm: VMView, why: str) -> None:
        if (paste := self._pastes.get(vm.vm_id)) is not None:
            paste.stop(why)
