"""Pastes into a guest whose QEMU is a list of what it was told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import pytest
from fakes.fake_screens import FakeFleet
from unit.web.fleet.test_model import vm

from qemu_node.errors import QmpError
from qemu_node.web.http.problems import Problem
from qemu_node.web.viewer.keys import uptake
from qemu_node.web.viewer.keys.layouts import load
from qemu_node.web.viewer.keys.paste import PER_SECOND_MAX, Pastes, PasteState, PasteView
from qemu_node.web.viewer.keys.strokes import plan_strokes
from qemu_node.web.viewer.keys.typist import _MODIFIERS, press

VM_ID = vm().vm_id
LONG = "Aa" * 2000
RELEASE = [(key, False) for key in _MODIFIERS]


class TypedQemu:
    """A QMP connection that notes keys, one list for each call."""

    def __init__(self) -> None:
        self.status = "running"
        self.calls: list[list[tuple[str, bool]]] = []
        self.breaks_after: int | None = None
        self.interrupts: Callable[[], str] = lambda: ""

    async def execute(self, command: str, arguments: Any = None, *, timeout_s: float = 5.0) -> Any:
        if command == "query-status":
            return {"status": self.status, "running": self.status == "running"}
        if command == "x-query-irq":
            return {"human-readable-text": self.interrupts()}
        assert command == "input-send-event"
        if self.breaks_after is not None and len(self.calls) >= self.breaks_after:
            self.breaks_after = None
            raise QmpError("QEMU does not answer")
        self.calls.append(
            [(event["data"]["key"]["data"], event["data"]["down"]) for event in arguments["events"]]
        )
        return {}


@pytest.fixture
def qemu() -> TypedQemu:
    return TypedQemu()


@pytest.fixture
def fleet(qemu: TypedQemu) -> FakeFleet:
    fleet = FakeFleet()
    fleet.vms[VM_ID] = vm()
    fleet.monitors[VM_ID] = qemu  # type: ignore[assignment]
    return fleet


@pytest.fixture
async def pastes(fleet: FakeFleet) -> AsyncIterator[Pastes]:
    async with Pastes(fleet) as pastes:
        yield pastes


async def start(
    pastes: Pastes,
    text: str,
    *,
    may: list[bool] | None = None,
    session: AbstractAsyncContextManager[None] | None = None,
) -> PasteView:
    allowed = may if may is not None else [True]
    return await pastes.start(
        VM_ID,
        plan_strokes(load("us"), text),
        per_second=PER_SECOND_MAX,
        may_go_on=lambda: allowed[0],
        session=session or nullcontext(),
    )


async def ended(pastes: Pastes, paste: PasteView) -> PasteView:
    async with asyncio.timeout(60):
        while (now := pastes.get(VM_ID, paste.id)).state is PasteState.TYPING:
            await asyncio.sleep(0.002)
    return now


async def typed(qemu: TypedQemu, calls: int) -> None:
    async with asyncio.timeout(60):
        while len(qemu.calls) < calls:
            await asyncio.sleep(0.002)


async def test_a_paste_is_one_call_a_stroke_and_tells_how_far_it_is(
    pastes: Pastes, qemu: TypedQemu
) -> None:
    begun = await start(pastes, "aB\n")
    assert (begun.state, begun.typed, begun.characters) == (PasteState.TYPING, 0, 3)
    done = await ended(pastes, begun)
    assert (done.state, done.typed, done.message) == (PasteState.DONE, 3, "")
    assert qemu.calls == [
        [("a", True), ("a", False)],
        [("shift", True), ("b", True), ("b", False), ("shift", False)],
        [("ret", True), ("ret", False)],
    ]


async def test_a_paste_ends_with_the_session_that_has_begun_it(
    pastes: Pastes, qemu: TypedQemu
) -> None:
    limit = asyncio.timeout(None)

    @asynccontextmanager
    async def session() -> AsyncIterator[None]:
        # As `Guard.stream` does.
        try:
            async with limit:
                yield
        except TimeoutError:
            pass

    begun = await start(pastes, LONG, session=session())
    await typed(qemu, 3)
    limit.reschedule(0.0)
    done = await ended(pastes, begun)
    assert done.state is PasteState.ABORTED
    assert "may not type" in done.message
    assert qemu.calls[-1] == RELEASE


async def test_the_next_key_waits_until_the_guest_has_read_the_last_one(
    pastes: Pastes, qemu: TypedQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uptake, "POLL_S", 0.0)
    asked_at: list[int] = []
    read = 100

    def interrupts() -> str:
        nonlocal read
        asked_at.append(len(qemu.calls))
        # A slow guest: it has read one byte more at each look.
        read = min(read + 1, 100 + sum(map(len, qemu.calls)))
        return (
            f"IRQ statistics for ioapic:\n 0: 7\n 1: {read}\n12: 3\nIRQ statistics for x:\n 1: 9\n"
        )

    qemu.interrupts = interrupts
    done = await ended(pastes, await start(pastes, "aB"))
    assert done.state is PasteState.DONE
    assert [asked_at.count(calls) for calls in (0, 1, 2)] == [1, 2, 4]


async def test_a_guest_that_stops_reading_its_keyboard_fails_the_paste(
    pastes: Pastes, qemu: TypedQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uptake, "STUCK_S", 0.02)
    monkeypatch.setattr(uptake, "POLL_S", 0.001)
    qemu.interrupts = lambda: f"IRQ statistics for ioapic:\n 1: {min(2 * len(qemu.calls), 6)}\n"
    done = await ended(pastes, await start(pastes, "a" * 100))
    assert (done.state, done.typed) == (PasteState.FAILED, 3)
    assert "does not read its keyboard" in done.message


async def test_where_interrupts_are_not_counted_the_pace_is_enough(
    pastes: Pastes, qemu: TypedQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uptake, "FIRST_S", 0.02)
    qemu.interrupts = lambda: "IRQ statistics for ioapic:\n 1: 5\n"
    assert (await ended(pastes, await start(pastes, "a" * 20))).state is PasteState.DONE


async def test_an_abort_releases_the_modifiers(pastes: Pastes, qemu: TypedQemu) -> None:
    begun = await start(pastes, LONG)
    await typed(qemu, 5)
    done = await pastes.abort(VM_ID, begun.id)
    assert (done.state, done.message) == (PasteState.ABORTED, "aborted")
    assert 0 < done.typed < done.characters
    assert qemu.calls[-1] == RELEASE


@pytest.mark.parametrize(
    ("event", "why"),
    [
        ("RESET", "the guest was reset"),
        ("STOP", "the guest was paused"),
        ("SHUTDOWN", "the guest has ended"),
    ],
)
async def test_what_happens_to_the_guest_ends_its_paste(
    pastes: Pastes, qemu: TypedQemu, fleet: FakeFleet, event: str, why: str
) -> None:
    begun = await start(pastes, LONG)
    await typed(qemu, 2)
    fleet.tell("another-0123456789ab", event)
    fleet.tell(VM_ID, event)
    done = await ended(pastes, begun)
    assert (done.state, done.message) == (PasteState.ABORTED, why)
    assert qemu.calls[-1] == RELEASE


async def test_an_error_of_qemu_fails_the_paste_and_releases(
    pastes: Pastes, qemu: TypedQemu
) -> None:
    qemu.breaks_after = 3
    done = await ended(pastes, await start(pastes, LONG))
    assert (done.state, done.typed) == (PasteState.FAILED, 3)
    assert "does not answer" in done.message
    assert qemu.calls[-1] == RELEASE


async def test_the_end_of_the_vm_ends_the_paste(
    pastes: Pastes, qemu: TypedQemu, fleet: FakeFleet
) -> None:
    begun = await start(pastes, LONG)
    await typed(qemu, 2)
    fleet.end(VM_ID, "the guest powered off")
    done = await ended(pastes, begun)
    assert (done.state, done.message) == (PasteState.ABORTED, "the VM has ended")
    fleet.forget(VM_ID)
    with pytest.raises(Problem):
        pastes.get(VM_ID, begun.id)


async def test_a_paste_ends_with_the_right_to_it(pastes: Pastes, qemu: TypedQemu) -> None:
    may = [True]
    begun = await start(pastes, LONG, may=may)
    await typed(qemu, 2)
    may[0] = False
    done = await ended(pastes, begun)
    assert done.state is PasteState.ABORTED
    assert "may not type" in done.message
    assert qemu.calls[-1] == RELEASE


async def test_nothing_is_typed_while_the_guest_does_not_run(
    pastes: Pastes, qemu: TypedQemu, fleet: FakeFleet
) -> None:
    qemu.status = "paused"
    with pytest.raises(Problem, match="does not run: QEMU says paused"):
        await start(pastes, "a")
    with pytest.raises(Problem, match="does not run"):
        await press(fleet, VM_ID, ["ctrl", "alt", "delete"])
    assert qemu.calls == []


async def test_one_paste_of_a_vm_at_a_time(pastes: Pastes, qemu: TypedQemu) -> None:
    begun = await start(pastes, LONG)
    with pytest.raises(Problem, match="another text"):
        await start(pastes, "b")
    # Aborted before its task has run for the first time, or after: either way it is over.
    await pastes.abort(VM_ID, begun.id)
    assert not pastes.is_typing(VM_ID)
    await ended(pastes, await start(pastes, "b"))
    with pytest.raises(Problem, match="no such paste"):
        pastes.get(VM_ID, begun.id)


async def test_the_end_of_the_console_releases_too(fleet: FakeFleet, qemu: TypedQemu) -> None:
    async with Pastes(fleet) as pastes:
        await start(pastes, LONG)
        await typed(qemu, 2)
    assert qemu.calls[-1] == RELEASE


async def test_a_combination_goes_down_in_order_and_up_in_reverse(
    fleet: FakeFleet, qemu: TypedQemu
) -> None:
    await press(fleet, VM_ID, ["ctrl", "alt", "delete"])
    assert qemu.calls == [
        [("ctrl", True), ("alt", True), ("delete", True)],
        [("delete", False), ("alt", False), ("ctrl", False)],
    ]


async def test_a_combination_is_released_also_when_its_request_is_cancelled(
    fleet: FakeFleet, qemu: TypedQemu
) -> None:
    async with asyncio.TaskGroup() as group:
        pressing = group.create_task(press(fleet, VM_ID, ["ctrl"]))
        await typed(qemu, 1)
        pressing.cancel()
    assert qemu.calls == [[("ctrl", True)], [("ctrl", False)]]
