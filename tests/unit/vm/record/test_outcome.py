from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.qmp.events import QmpEvent, RunState, StatusInfo
from qemu_node.vm.record.outcome import (
    FORCED_OFF,
    POWERED_OFF,
    EndKind,
    ProcessEnd,
    VMExit,
    describe,
    guest_end_of_event,
    guest_end_of_status,
    is_nodes_end,
    judge_process_end,
    kind_of,
)


def end(
    status: int | None,
    *,
    watched: bool = True,
    stopping: bool = False,
    oom_kills: int = 0,
    words: str = "",
) -> ProcessEnd:
    return ProcessEnd(
        exit_status=status,
        was_watched=watched,
        is_stopping=stopping,
        oom_kills=oom_kills,
        last_words=words,
    )


@pytest.mark.parametrize("status", [0, -9, None])
def test_a_vm_that_had_to_be_ended_reports_a_kill_without_a_reason(status: int | None) -> None:
    assert judge_process_end(end(status, stopping=True)) == FORCED_OFF
    assert (FORCED_OFF.exit_code, FORCED_OFF.signal, FORCED_OFF.reason) == (137, 9, None)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (POWERED_OFF, "the guest powered off"),
        (FORCED_OFF, "the guest did not shut down in time"),
        (VMExit(exit_code=1, reason="panic"), "panic"),
    ],
)
def test_every_end_has_words_for_the_log(outcome: VMExit, words: str) -> None:
    assert describe(outcome) == words


@pytest.mark.parametrize("status", [-11, -9, 1, 0, None])
def test_every_end_that_nobody_asked_for_is_a_failure_with_a_reason(status: int | None) -> None:
    outcome = judge_process_end(end(status, words="boom"))
    assert outcome.is_failure
    assert outcome.reason
    assert "boom" in outcome.reason


def test_an_end_that_was_watched_is_not_told_as_one_that_nobody_saw() -> None:
    watched = judge_process_end(end(None))
    missed = judge_process_end(end(None, watched=False))
    assert "driver was away" not in (watched.reason or "")
    assert missed.reason == "QEMU ended while the driver was away"


def test_a_crash_names_its_signal() -> None:
    outcome = judge_process_end(end(-11))
    assert (outcome.exit_code, outcome.signal) == (139, 11)
    assert outcome.reason == "QEMU was killed by SIGSEGV"


@pytest.mark.parametrize("number", range(1, 128))
def test_a_vm_ends_whatever_signal_killed_its_qemu(number: int) -> None:
    outcome = judge_process_end(end(-number))
    assert (outcome.exit_code, outcome.signal) == (128 + number, number)
    assert outcome.is_failure


def test_an_oom_kill_is_told_apart_from_any_other_sigkill() -> None:
    outcome = judge_process_end(end(-9, oom_kills=1))
    assert outcome.oom_killed
    assert outcome.reason
    assert "memory" in outcome.reason


def event(name: str, **data: Any) -> QmpEvent:
    return QmpEvent(name=name, data=data)


@pytest.mark.parametrize(
    ("given_event", "reason"),
    [
        (event("SHUTDOWN", guest=True, reason="guest-shutdown"), None),
        (event("GUEST_PANICKED", action="pause"), "the guest's kernel panicked"),
        (event("SHUTDOWN", guest=True, reason="guest-panic"), "the guest's kernel panicked"),
        (
            event(
                "GUEST_PANICKED",
                action="pause",
                info={"type": "hyper-v", "arg1": (1 << 9000) + 0x7E, "arg3": 2, "arg5": 1 << 63},
            ),
            "the guest's kernel panicked: Windows bug check 0x7e "
            "(0x0, 0x2, 0x0, 0x8000000000000000)",
        ),
        (
            event("GUEST_PANICKED", action="pause", info={"type": "tdx", "message": "bad\x1b"}),
            "the guest's kernel panicked (tdx): bad?",
        ),
        (
            event("WATCHDOG", action="pause"),
            "the guest hung or halted: it no longer fed its watchdog",
        ),
    ],
)
def test_a_guests_own_end_is_told_with_its_reason(
    given_event: QmpEvent, reason: str | None
) -> None:
    assert guest_end_of_event(given_event) == VMExit(
        exit_code=0 if reason is None else 1, reason=reason
    )


@pytest.mark.parametrize(
    "given_event",
    [
        event("SHUTDOWN", guest=False, reason="host-qmp-quit"),
        event("SHUTDOWN", guest=False, reason="host-signal"),
        event("RESET", guest=True, reason="guest-reset"),
        event("POWERDOWN"),
        event("WATCHDOG", action="reset"),
        event("STOP"),
    ],
)
def test_a_reboot_or_an_end_forced_from_outside_is_no_end_of_the_guests_own(
    given_event: QmpEvent,
) -> None:
    assert guest_end_of_event(given_event) is None


def test_every_run_state_is_an_end_or_not() -> None:
    ends = {
        state: end.reason
        for state in RunState
        if (end := guest_end_of_status(StatusInfo(status=state, running=False))) is not None
    }
    # A guest that waits for disk space (io-error) has not ended.
    assert ends == {
        RunState.SHUTDOWN: None,
        RunState.GUEST_PANICKED: "the guest's kernel panicked",
        RunState.INTERNAL_ERROR: "QEMU stopped the guest: internal error of the accelerator",
        RunState.WATCHDOG: "the guest hung or halted: it no longer fed its watchdog",
    }


@settings(max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from(["type", "message", "arg1", "arg2", "arg3", "arg4", "arg5"]),
        st.text() | st.integers() | st.sampled_from(["hyper-v", "tdx"]),
    )
)
def test_whatever_a_panic_says_its_reason_is_one_line(info: dict[str, object]) -> None:
    end = guest_end_of_event(event("GUEST_PANICKED", action="pause", info=info))
    assert end is None or (end.reason or "").isprintable()


@pytest.mark.parametrize(
    ("marked", "written", "same_boot", "is_nodes"),
    [
        # Told to end because the node goes down, seen by a driver or not.
        (True, False, False, True),
        (True, True, False, True),
        (True, False, True, True),
        # A power cut.
        (False, False, False, True),
        # Its own end: seen before the boot, or in this boot.
        (False, True, False, False),
        (False, True, True, False),
        (False, False, True, False),
    ],
)
def test_an_end_is_the_nodes_if_the_node_took_the_vm_along(
    *, marked: bool, written: bool, same_boot: bool, is_nodes: bool
) -> None:
    assert (
        is_nodes_end(is_marked=marked, is_end_written=written, is_same_boot=same_boot) is is_nodes
    )


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (POWERED_OFF, EndKind.POWERED_OFF),
        (FORCED_OFF, EndKind.FORCED),
        (
            guest_end_of_status(StatusInfo(status=RunState.GUEST_PANICKED, running=False)),
            EndKind.PANICKED,
        ),
        (guest_end_of_status(StatusInfo(status=RunState.WATCHDOG, running=False)), EndKind.HUNG),
        (
            guest_end_of_status(StatusInfo(status=RunState.INTERNAL_ERROR, running=False)),
            EndKind.QEMU,
        ),
        (judge_process_end(end(-9, oom_kills=1)), EndKind.OUT_OF_MEMORY),
        (judge_process_end(end(-11)), EndKind.QEMU),
        (judge_process_end(end(0)), EndKind.QEMU),
        (judge_process_end(end(-9, stopping=True)), EndKind.FORCED),
    ],
)
def test_every_end_is_counted_as_one_kind(outcome: VMExit, kind: EndKind) -> None:
    assert kind_of(outcome) is kind
