import click
import pytest

from qemu_node.cli.terminal import (
    Cell,
    Column,
    Duration,
    fitting_columns,
    plain_lines,
    print_fields,
    print_table,
    short_size,
    short_time,
    waiting,
)
from qemu_node.units import GIB, KIB, MIB, TIB

COLUMNS = (Column("VM"), Column("CPU", is_number=True), Column("Image", droppable=1))
ROWS = [[Cell("web-1"), Cell("5%"), Cell("debian.qcow2")], [Cell("db"), Cell("100%"), Cell("")]]


def test_elsewhere_than_on_a_terminal_columns_are_aligned_and_whole() -> None:
    assert plain_lines(COLUMNS, ROWS) == [
        "VM      CPU  IMAGE",
        "web-1    5%  debian.qcow2",
        "db     100%  -",
    ]


@pytest.mark.parametrize(("width", "kept"), [(80, [0, 1, 2]), (25, [0, 1, 2]), (24, [0, 1])])
def test_droppable_columns_go_where_the_terminal_is_narrow(width: int, kept: list[int]) -> None:
    assert fitting_columns(COLUMNS, ROWS, width) == kept


def test_the_highest_droppable_goes_first_and_the_rest_stays_in_order() -> None:
    columns = (Column("a", droppable=2), Column("b"), Column("c", droppable=3))
    rows = [[Cell("x" * 10)] * 3]
    assert fitting_columns(columns, rows, 22) == [0, 1]
    assert fitting_columns(columns, rows, 5) == [1]


def test_what_a_guest_says_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table((Column("VM"),), [[Cell("a\x1b]0;x\x07b")]])
    print_fields([("name", "a\x1b[2J\nb")])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0"),
        (1023, "1023"),
        (KIB, "1K"),
        (1536 * MIB, "1.5G"),
        (512 * MIB, "512M"),
        (64 * GIB, "64G"),
        (3 * TIB, "3T"),
    ],
)
def test_sizes_are_short(size_bytes: int, text: str) -> None:
    assert short_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (42, "42s"), (190, "3m10s"), (7500, "2h5m"), (792_000, "9d4h")],
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert short_time(seconds) == text


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30.0), ("2m", 120.0), ("45", 45.0)])
def test_a_duration_is_in_gos_notation_or_plain_seconds(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


def test_a_wrong_duration_says_how_to_write_one() -> None:
    with pytest.raises(click.BadParameter, match="5m"):
        Duration().convert("soon", None, None)


def test_progress_is_a_line_on_stderr_where_that_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with waiting("stopping web") as tell:
        tell("pressing the power button")
    shown = capsys.readouterr()
    assert shown.err == "stopping web: pressing the power button\n"
    assert shown.out == ""
