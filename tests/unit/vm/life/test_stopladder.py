from hypothesis import given
from hypothesis import strategies as st

from qemu_node.vm.life.stopladder import StopAction, plan_quit, plan_stop

TIMEOUTS = st.floats(min_value=0, max_value=3600, allow_nan=False)


@given(TIMEOUTS)
def test_every_ladder_ends_in_a_kill_within_the_timeout(timeout_s: float) -> None:
    steps = plan_stop(timeout_s)
    assert steps[-1].action is StopAction.KILL
    assert steps[-1].at_s <= timeout_s
    assert [step.at_s for step in steps] == sorted(step.at_s for step in steps)


@given(TIMEOUTS.filter(lambda timeout_s: timeout_s > 0))
def test_the_guest_gets_at_least_three_quarters_of_the_time(timeout_s: float) -> None:
    by_action = {step.action: step.at_s for step in plan_stop(timeout_s)}
    assert by_action[StopAction.QUIT] >= 0.75 * timeout_s
    assert by_action[StopAction.GUEST_AGENT] == 0


def test_no_time_means_quit_at_once() -> None:
    steps = plan_stop(0.0)
    assert [(step.action, step.at_s) for step in steps] == [
        (StopAction.QUIT, 0.0),
        (StopAction.KILL, 0.0),
    ]


def test_the_guest_is_asked_first_and_force_comes_last() -> None:
    assert [step.action for step in plan_stop(30.0)] == list(StopAction)


def test_a_guest_that_is_not_asked_lets_qemu_close_its_files() -> None:
    quit_, kill = plan_quit()
    assert (quit_.action, quit_.at_s, kill.action) == (StopAction.QUIT, 0.0, StopAction.KILL)
    assert kill.at_s > 0
