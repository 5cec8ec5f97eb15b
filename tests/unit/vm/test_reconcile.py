import pytest

from qemu_node.vm.reconcile import EVIDENCE_GRACE_S, FoundVM, Verdict, judge


def found(
    *, started: bool = True, running: bool = False, alloc: bool = True, for_s: float = 0.0
) -> FoundVM:
    return FoundVM(was_started=started, is_running=running, has_alloc=alloc, unmanaged_s=for_s)


@pytest.mark.parametrize("running", [True, False])
def test_a_start_that_was_never_completed_goes_at_once(running: bool) -> None:
    assert judge(found(started=False, running=running, alloc=False)) is Verdict.REMOVE


def test_a_running_vm_waits_for_the_driver_that_will_recover_it() -> None:
    assert judge(found(running=True, for_s=1e6)) is Verdict.KEEP


def test_a_vm_of_an_allocation_that_nomad_removed_goes_even_while_it_runs() -> None:
    assert judge(found(running=True, alloc=False)) is Verdict.REMOVE


def test_the_files_of_an_ended_vm_wait_for_whoever_asks_how_it_ended() -> None:
    assert judge(found(for_s=EVIDENCE_GRACE_S - 1)) is Verdict.KEEP
    assert judge(found(for_s=EVIDENCE_GRACE_S)) is Verdict.REMOVE
