import json

import pytest

from bench.table import (
    Figure,
    Goal,
    NotMeasured,
    Report,
    Verdict,
    format_number,
    render_table,
    report_json,
)


def figure(*samples: float, goal: Goal | None = None, what: str = "latency") -> Figure:
    return Figure(bench="launch", what=what, unit="ms", samples=samples, goal=goal)


def report(*figures: Figure, not_measured: tuple[NotMeasured, ...] = ()) -> Report:
    return Report(machine="2 CPUs", figures=figures, not_measured=not_measured)


def test_the_median_is_judged_and_one_slow_sample_is_not() -> None:
    assert figure(10, 20, 900, goal=Goal(at_most=60)).verdict is Verdict.MET
    assert figure(10, 70, 900, goal=Goal(at_most=60)).verdict is Verdict.MISSED


@pytest.mark.parametrize(
    ("goal", "value", "is_met"),
    [
        (Goal(at_most=0.5), 0.5, True),
        (Goal(at_most=0.5), 0.51, False),
        (Goal(at_least=0.7), 0.7, True),
        (Goal(at_least=0.7), 0.69, False),
        (Goal(at_most=0), 0, True),
    ],
)
def test_a_limit_belongs_to_its_goal(goal: Goal, value: float, *, is_met: bool) -> None:
    assert goal.is_met_by(value) is is_met


def test_a_figure_without_a_goal_has_no_verdict() -> None:
    assert figure(1).verdict is Verdict.NO_GOAL


def test_a_figure_needs_a_sample() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        figure()


@pytest.mark.parametrize(
    ("value", "text"), [(0.347, "0.35"), (18.04, "18.0"), (157.4, "157"), (-19.02, "-19.0")]
)
def test_numbers_have_the_decimals_that_mean_something(value: float, text: str) -> None:
    assert format_number(value) == text


def test_the_table_shows_the_spread_the_goal_and_the_verdict() -> None:
    table = render_table(report(figure(1, 2, 30, goal=Goal(at_most=60)), figure(500, what="x")))
    machine, empty, header, first, second = table.splitlines()
    assert (machine, empty) == ("2 CPUs", "")
    assert header.split() == ["bench", "figure", "unit", "min", "median", "max", "goal"]
    assert first.split() == ["launch", "latency", "ms", "1.00", "2.00", "30.0", "≤", "60", "met"]
    assert second.split() == ["launch", "x", "ms", "500", "500", "500"]


def test_the_table_names_what_was_skipped_and_what_broke() -> None:
    table = render_table(
        report(
            figure(1),
            not_measured=(
                NotMeasured(bench="job", reason="no Nomad binary", is_failure=False),
                NotMeasured(bench="rate", reason="QEMU ended", is_failure=True),
            ),
        )
    )
    assert table.splitlines()[-2:] == ["skipped job: no Nomad binary", "failed rate: QEMU ended"]


def test_json_has_every_sample_and_the_limits() -> None:
    body = json.loads(report_json(report(figure(1, 3, 2, goal=Goal(at_least=2)), figure(7))))
    judged, plain = body["figures"]
    assert judged["samples"] == [1, 3, 2]
    assert (judged["min"], judged["median"], judged["max"]) == (1, 2, 3)
    assert (judged["at_most"], judged["at_least"], judged["verdict"]) == (None, 2, "met")
    assert plain["verdict"] is None
    assert body["not_measured"] == []


def test_a_run_is_good_unless_a_goal_was_missed_or_a_bench_broke() -> None:
    met, missed = figure(1, goal=Goal(at_most=1)), figure(2, goal=Goal(at_most=1))
    skipped = NotMeasured(bench="job", reason="no Nomad binary", is_failure=False)
    broken = NotMeasured(bench="job", reason="no VM", is_failure=True)
    assert report(met, not_measured=(skipped,)).is_good
    assert not report(met, missed).is_good
    assert not report(met, not_measured=(broken,)).is_good
