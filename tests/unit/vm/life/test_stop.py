from hypothesis import given
from hypothesis import strategies as st

from qemu_node.vm.life.stop import StopAction, plan_stop

TIMEOUTS = st.floats(min_value=0, max_value=3600, allow_nan=False)


@given(TIMEOUTS, st.booleans())
def test_every_ladder_ends_in_a_kill_within_the_timeout(timeout_s: float, has_agent: bool) -> None:
    steps = plan_stop(timeout_s, has_agent=has_agent)
    assert steps[-1].action is StopAction.KILL
    assert steps[-1].at_s <= timeout_s
    assert [step.at_s for step in steps] == sorted(step.at_s for step in steps)


@given(TIMEOUTS.filter(lambda timeout_s: timeout_s > 0))
def test_the_guest_gets_at_least_three_quarters_of_the_time(timeout_s: float) -> None:
    by_action = {step.action: step.at_s for step in plan_stop(timeout_s, has_agent=True)}
    assert by_action[StopAction.QUIT] >= 0.75 * timeout_s
    assert by_action[StopAction.GUEST_AGENT] == 0


def test_no_time_means_quit_at_once() -> None:
    steps = plan_stop(0.0, has_agent=True)
    assert [(step.action, step.at_s) for step in steps] == [
        (StopAction.QUIT, 0.0),
        (StopAction.KILL, 0.0),
    ]


def test_without_an_agent_the_power_button_comes_first() -> None:
    assert plan_stop(30.0, has_agent=False)[0].action is StopAction.ACPI
