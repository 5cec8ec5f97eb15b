from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.vm.life.stopladder import StopAction
from qemu_node.vm.life.transitions import (
    Act,
    Acts,
    Event,
    FilesRemoved,
    GuestEnded,
    GuestRuns,
    Life,
    QemuGone,
    StepDue,
    StopBegun,
    StopOver,
    VMPhase,
    WriteEnd,
    advance,
)
from qemu_node.vm.record.outcome import FORCED_OFF, POWERED_OFF, VMExit

PANIC = VMExit(exit_code=1, reason="panic")
CRASH = VMExit(exit_code=139, signal=11, reason="QEMU was killed by SIGSEGV")

RUNNING = Life()
STOPPING = Life(stops=1)
GUEST_ENDED = Life(phase=VMPhase.GUEST_ENDED, end=PANIC)
EXITED = Life(phase=VMPhase.EXITED, end=CRASH)
DESTROYED = Life(phase=VMPhase.DESTROYED, end=CRASH)
STATES = (RUNNING, STOPPING, GUEST_ENDED, EXITED, DESTROYED)

ASK, PRESS = StopAction.GUEST_AGENT, StopAction.ACPI
QUIT = (Act.HOLD_TAPS, StopAction.QUIT)
KILL = (Act.HOLD_TAPS, StopAction.KILL)
TELL = (Act.TELL_END, Act.CLEAN_UP)

# Event, then what each of STATES becomes of it: None where nothing happens.
TABLE: list[tuple[Event, Sequence[tuple[Life, Acts] | None]]] = [
    (
        GuestEnded(POWERED_OFF),
        [
            (Life(phase=VMPhase.GUEST_ENDED, end=POWERED_OFF), ()),
            (Life(phase=VMPhase.GUEST_ENDED, end=POWERED_OFF, stops=1), ()),
            None,
            None,
            None,
        ],
    ),
    (GuestRuns(), [(RUNNING, (Act.FORGET_END,)), None, None, None, None]),
    (
        StopBegun(),
        [
            (STOPPING, ()),
            (Life(stops=2), ()),
            (Life(phase=VMPhase.GUEST_ENDED, end=PANIC, stops=1), ()),
            (Life(phase=VMPhase.EXITED, end=CRASH, stops=1), ()),
            (Life(phase=VMPhase.DESTROYED, end=CRASH, stops=1), ()),
        ],
    ),
    (StopOver(), [None, (RUNNING, ()), None, None, None]),
    (StepDue(ASK), [(RUNNING, (ASK,)), (STOPPING, (ASK,)), None, None, None]),
    (StepDue(PRESS), [(RUNNING, (PRESS,)), (STOPPING, (PRESS,)), None, None, None]),
    (
        StepDue(StopAction.QUIT),
        [
            (RUNNING, (WriteEnd(FORCED_OFF), *QUIT)),
            (STOPPING, (WriteEnd(FORCED_OFF), *QUIT)),
            (GUEST_ENDED, (WriteEnd(PANIC), *QUIT)),
            None,
            None,
        ],
    ),
    (
        StepDue(StopAction.KILL),
        [(RUNNING, KILL), (STOPPING, KILL), (GUEST_ENDED, KILL), None, None],
    ),
    (
        QemuGone(CRASH),
        [
            (EXITED, (WriteEnd(CRASH), *TELL)),
            (Life(phase=VMPhase.EXITED, end=CRASH, stops=1), (WriteEnd(CRASH), *TELL)),
            # What QMP told is on disk since before QEMU was quit.
            (Life(phase=VMPhase.EXITED, end=PANIC), TELL),
            None,
            None,
        ],
    ),
    (
        QemuGone(CRASH, is_written=True),
        [
            (EXITED, TELL),
            (Life(phase=VMPhase.EXITED, end=CRASH, stops=1), TELL),
            (Life(phase=VMPhase.EXITED, end=PANIC), TELL),
            None,
            None,
        ],
    ),
    (FilesRemoved(), [None, None, None, (DESTROYED, (Act.RELEASE_LOCK,)), None]),
]


@pytest.mark.parametrize(
    ("state", "event", "expected"),
    [
        (state, event, expected)
        for event, row in TABLE
        for state, expected in zip(STATES, row, strict=True)
    ],
)
def test_every_event_in_every_state(
    state: Life, event: Event, expected: tuple[Life, Acts] | None
) -> None:
    assert advance(state, event) == ((state, ()) if expected is None else expected)


def test_the_table_has_every_event_and_every_phase() -> None:
    assert {type(event) for event, _ in TABLE} == set(Event.__args__)
    assert {event.action for event, _ in TABLE if isinstance(event, StepDue)} == set(StopAction)
    assert {state.phase for state in STATES} == set(VMPhase)


@dataclass
class Told:
    """What became of a VM to which events have happened."""

    life: Life = RUNNING
    acts: list[Act | WriteEnd | StopAction] = field(default_factory=list)


EVENTS = st.lists(
    st.sampled_from([POWERED_OFF, PANIC]).map(GuestEnded)
    | st.sampled_from([GuestRuns(), StopBegun(), StopOver(), FilesRemoved()])
    | st.sampled_from(StopAction).map(StepDue)
    | st.builds(QemuGone, st.sampled_from([CRASH, FORCED_OFF]), st.booleans()),
    max_size=30,
)


def live(events: Sequence[Event]) -> Told:
    told = Told()
    for event in events:
        told.life, acts = advance(told.life, event)
        told.acts += acts
    return told


@settings(max_examples=500)
@given(EVENTS)
def test_an_end_is_told_exactly_once_and_only_the_cleaning_up_comes_after_it(
    events: list[Event],
) -> None:
    acts = live([*events, QemuGone(CRASH), *events]).acts
    assert acts.count(Act.TELL_END) == 1
    after = acts[acts.index(Act.TELL_END) + 1 :]
    assert after in ([Act.CLEAN_UP], [Act.CLEAN_UP, Act.RELEASE_LOCK])


@settings(max_examples=500)
@given(EVENTS)
def test_the_end_is_on_disk_whenever_qemu_is_told_to_quit(events: list[Event]) -> None:
    acts = live(events).acts
    for n, act in enumerate(acts):
        if act is StopAction.QUIT:
            assert isinstance(acts[n - 2], WriteEnd)
            assert acts[n - 1] is Act.HOLD_TAPS


@settings(max_examples=500)
@given(EVENTS, EVENTS)
def test_what_the_guest_told_of_its_end_is_what_is_written_and_told(
    before: list[Event], after: list[Event]
) -> None:
    ended = live([*before, GuestEnded(PANIC)])
    if ended.life.phase is not VMPhase.GUEST_ENDED:
        return
    told = live([*before, GuestEnded(PANIC), *after])
    written = [act.end for act in told.acts[len(ended.acts) :] if isinstance(act, WriteEnd)]
    assert set(written) <= {ended.life.end}
    assert told.life.end == ended.life.end


@settings(max_examples=500)
@given(EVENTS)
def test_the_written_end_of_a_vm_is_forgotten_only_while_nobody_stops_it(
    events: list[Event],
) -> None:
    life = Life()
    for event in events:
        before, (life, acts) = life, advance(life, event)
        if Act.FORGET_END in acts:
            assert (before.phase, before.stops) == (VMPhase.RUNNING, 0)


@settings(max_examples=500)
@given(EVENTS)
def test_a_phase_is_never_gone_back_to(events: list[Event]) -> None:
    order = list(VMPhase)
    life = Life()
    for event in events:
        before, (life, _) = life, advance(life, event)
        assert order.index(life.phase) >= order.index(before.phase)
        assert (life.end is None) == (life.phase is VMPhase.RUNNING)
        assert life.stops >= 0
