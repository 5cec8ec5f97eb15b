import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import ConfigError
from qemu_node.units import (
    GIB,
    KIB,
    MIB,
    format_size,
    parse_duration,
    parse_share,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("512", 512),
        ("1K", KIB),
        ("50G", 50 * GIB),
        ("1.5 GiB", 3 * GIB // 2),
        ("10mb", 10 * MIB),
        (" 2M ", 2 * MIB),
    ],
)
def test_sizes_are_powers_of_1024(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "G", "-1", "1X", "1 2", "1e3", "0x10", "99999999T"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_size(text)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h30m", 5400), ("500ms", 0.5), ("1d", 86400)]
)
def test_durations_are_written_as_in_go(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "5 m", "m", "1h-3m", "s5"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_duration(text)


@given(st.text())
def test_no_text_makes_the_parsers_fail_in_another_way(text: str) -> None:
    for parse in (parse_size, parse_duration):
        with contextlib.suppress(ConfigError):
            assert parse(text) >= 0


def test_sizes_are_shown_in_the_largest_fitting_unit() -> None:
    assert [format_size(n) for n in (0, 1023, 1536, 5 * GIB, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]


@pytest.mark.parametrize(
    ("text", "of_a_tib"),
    [
        ("10%", GIB * 1024 // 10),
        ("0 %", 0),
        ("100%", 1024 * GIB),
        ("20G", 20 * GIB),
        ("9T", 1 << 40),
    ],
)
def test_share_is_a_part_or_a_size_and_never_more_than_the_whole(text: str, of_a_tib: int) -> None:
    assert parse_share(text).of(1 << 40) == of_a_tib


@pytest.mark.parametrize("text", ["", "%", "101%", "-1%", "10 percent"])
def test_what_is_no_share_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_share(text)
    assert refused.value.hint
