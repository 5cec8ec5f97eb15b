import pytest

from qemu_node.vm.record.outcome import (
    FORCED_OFF,
    POWERED_OFF,
    ProcessEnd,
    VMExit,
    describe,
    judge_process_end,
)


def end(
    status: int | None, *, stopping: bool = False, oom_kills: int = 0, words: str = ""
) -> ProcessEnd:
    return ProcessEnd(
        exit_status=status, is_stopping=stopping, oom_kills=oom_kills, last_words=words
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
    missed = judge_process_end(
        ProcessEnd(
            exit_status=None, was_watched=False, is_stopping=False, oom_kills=0, last_words=""
        )
    )
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
