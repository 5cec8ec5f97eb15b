"""What a bench found and whether it meets its goal: values, a table, JSON. Pure.

Owns the form of a figure, the rule by which it is judged, and both renderings. Does not own any
measuring, nor the goals: each bench states its own.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

_GAP = "  "


class Verdict(StrEnum):
    """A figure against its goal."""

    MET = "met"
    MISSED = "missed"
    NO_GOAL = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the median of a figure may be at most, or must be at least."""

    at_most: float | None = None
    at_least: float | None = None

    def is_met_by(self, value: float) -> bool:
        """Tell whether `value` is within the limits, which belong to the goal themselves."""
        return (self.at_most is None or value <= self.at_most) and (
            self.at_least is None or value >= self.at_least
        )

    def __str__(self) -> str:
        limits = (("≤", self.at_most), ("≥", self.at_least))
        return " ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One quantity, measured several times in one run."""

    bench: str
    what: str
    unit: str
    samples: tuple[float, ...]
    goal: Goal | None = None
    """None: measured for comparison only."""

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError(f"{self.bench}: {self.what}: nothing was measured")

    @property
    def median(self) -> float:
        """What is judged: one slow sample on a shared machine says nothing about the program."""
        return statistics.median(self.samples)

    @property
    def verdict(self) -> Verdict:
        """The median against the goal."""
        if self.goal is None:
            return Verdict.NO_GOAL
        return Verdict.MET if self.goal.is_met_by(self.median) else Verdict.MISSED


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMeasured:
    """A bench without figures."""

    bench: str
    reason: str
    is_failure: bool
    """It broke; else this machine lacks what it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run of the benches."""

    machine: str
    figures: tuple[Figure, ...]
    not_measured: tuple[NotMeasured, ...]

    @property
    def is_good(self) -> bool:
        """Tell whether no goal was missed and no bench broke. What was skipped is neither."""
        return not any(figure.verdict is Verdict.MISSED for figure in self.figures) and not any(
            item.is_failure for item in self.not_measured
        )


def format_number(value: float) -> str:
    """Return `value` with as many decimals as are meaningful for its size."""
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{decimals}f}"


def render_table(report: Report) -> str:
    """Return the report for a person, without a newline at its end."""
    header = ("bench", "figure", "unit", "min", "median", "max", "goal", "")
    rows = [header, *(_row(figure) for figure in report.figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [report.machine, "", *(_line(row, widths) for row in rows)]
    if report.not_measured:
        lines.append("")
    lines += [
        f"{'failed' if item.is_failure else 'skipped'} {item.bench}: {item.reason}"
        for item in report.not_measured
    ]
    return "\n".join(lines)


def _row(figure: Figure) -> tuple[str, ...]:
    low, high = min(figure.samples), max(figure.samples)
    numbers = (format_number(value) for value in (low, figure.median, high))
    goal = "" if figure.goal is None else str(figure.goal)
    return (figure.bench, figure.what, figure.unit, *numbers, goal, figure.verdict.value)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    # Numbers stand right, so that their magnitude can be compared down the column.
    cells = [
        text.rjust(width) if 3 <= column <= 5 else text.ljust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return _GAP.join(cells).rstrip()


def report_json(report: Report) -> str:
    """Return the report for a program: the figures with their samples, goals and verdicts."""
    figures = [
        {
            "bench": figure.bench,
            "figure": figure.what,
            "unit": figure.unit,
            "min": min(figure.samples),
            "median": figure.median,
            "max": max(figure.samples),
            "samples": figure.samples,
            "at_most": None if figure.goal is None else figure.goal.at_most,
            "at_least": None if figure.goal is None else figure.goal.at_least,
            "verdict": figure.verdict.value or None,
        }
        for figure in report.figures
    ]
    body = {"machine": report.machine, "figures": figures, "not_measured": report.not_measured}
    return msgspec.json.format(msgspec.json.encode(body)).decode()
