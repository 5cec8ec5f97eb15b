"""How a VM ended, and how long that is remembered."""

import pytest
from unit.web.fleet.test_model import vm

from qemu_node.vm.record.outcome import FORCED_OFF, POWERED_OFF, VMExit
from qemu_node.web.fleet.ends import KEPT_MAX, KEPT_S, EndedVMs, GuestState, judge_end

AT = "2026-01-01T00:00:00Z"
PANIC = VMExit(exit_code=1, reason="the guest's kernel panicked")


@pytest.mark.parametrize(
    ("seen", "written", "reason", "is_failure"),
    [
        (GuestState(end=POWERED_OFF), None, "the guest powered off", False),
        (GuestState(end=POWERED_OFF), FORCED_OFF, "the guest did not shut down in time", True),
        (GuestState(end=PANIC), None, "the guest's kernel panicked", True),
        (GuestState(cause="host-qmp-quit"), None, "QEMU was told to quit", False),
        (GuestState(cause="host-signal"), None, "QEMU was ended by a signal", False),
        (GuestState(), None, "its QEMU is gone", False),
    ],
    ids=["powered-off", "driver-knows-more", "panic", "quit", "signal", "unknown"],
)
def test_the_reason_is_the_best_that_is_known(
    seen: GuestState, written: VMExit | None, reason: str, is_failure: bool
) -> None:
    end = judge_end(seen, written, AT)
    assert end.reason.startswith(reason)
    assert (end.is_failure, end.at) == (is_failure, AT)


def test_an_ended_vm_is_remembered_for_a_day() -> None:
    forgotten: list[str] = []
    ended = EndedVMs(forgotten.append)
    ended.add(vm("a-0123456789ab"), 0.0)
    ended.add(vm("b-0123456789ab"), 100.0)
    ended.forget_old(KEPT_S - 1)
    assert forgotten == []
    ended.forget_old(KEPT_S)
    assert forgotten == ["a-0123456789ab"]
    assert set(ended.views()) == {"b-0123456789ab"}


def test_only_the_last_ends_are_remembered_and_one_that_runs_again_is_not() -> None:
    forgotten: list[str] = []
    ended = EndedVMs(forgotten.append)
    for number in range(KEPT_MAX + 5):
        ended.add(vm(f"a-{number:012x}"), float(number))
    assert forgotten == [f"a-{number:012x}" for number in range(5)]
    ended.discard("a-000000000005")
    assert "a-000000000005" not in ended.views()
