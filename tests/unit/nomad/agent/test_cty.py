"""The values are those of go-cty and of Nomad's jobspec2."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.nomad.agent.cty import (
    MismatchError,
    Value,
    parse_number,
    to_bool,
    to_int,
    to_nanoseconds,
    to_string,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("512", 512), ("0500", 500), ("+5", 5), ("-1", -1), ("5.", 5), (".5e1", 5), ("1e3", 1000),
        ("1.5", 1.5), ("100000000000000000000", 10**20),
    ],
)  # fmt: skip
def test_a_number_may_be_written_as_a_string(text: str, number: float) -> None:
    assert parse_number(text) == number
    assert type(parse_number(text)) is type(number)


@pytest.mark.parametrize(
    "text", ["", " 5 ", "0x10", "1_000", "x", "inf", "nan", "1e999", "9" * 5000, "٣"]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(MismatchError):
        parse_number(text)


@pytest.mark.parametrize("value", [True, None, [1], "1.5", 1.5])
def test_what_is_no_whole_number_is_refused(value: Value) -> None:
    with pytest.raises(MismatchError):
        to_int(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(755, "755"), (0.1, "0.1"), (0.12345678901, "0.12345678901"), (1e-7, "0.0000001"),
     (True, "true"), ("x", "x")],
)  # fmt: skip
def test_numbers_become_strings_in_full(value: Value, text: str) -> None:
    assert to_string(value) == text


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("1", True), ("0", False)])
def test_a_truth_value_may_be_written_as_a_string(value: str, expected: bool) -> None:
    assert to_bool(value) is expected


@pytest.mark.parametrize("value", ["True", "yes", 1, None])
def test_what_is_no_truth_value_is_refused(value: Value) -> None:
    with pytest.raises(MismatchError):
        to_bool(value)


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [("1h30m", 5400 * 10**9), ("1.5s", 1_500_000_000), ("500ms", 500_000_000), ("0", 0),
     ("-2s", -2 * 10**9), ("1us", 1000), (5000, 5000)],
)  # fmt: skip
def test_durations_are_gos(value: Value, nanoseconds: int) -> None:
    assert to_nanoseconds(value) == nanoseconds


@pytest.mark.parametrize("value", ["", "5", "1d", "s", "1 s", ".s", None, True])
def test_what_is_no_duration_is_refused(value: Value) -> None:
    with pytest.raises(MismatchError):
        to_nanoseconds(value)


@given(st.text(max_size=30))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        to_nanoseconds(text)
    except MismatchError:
        return
