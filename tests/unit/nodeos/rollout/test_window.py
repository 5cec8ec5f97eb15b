import datetime

import pytest

from qemu_node.config.nodeos import OsConfig, check_os, parse_window
from qemu_node.errors import ConfigError
from qemu_node.nodeos.rollout.window import is_open

_MONDAY = datetime.datetime(2026, 11, 30, tzinfo=datetime.UTC)


def _at(day: int, clock: str) -> datetime.datetime:
    hour, minute = map(int, clock.split(":"))
    return _MONDAY + datetime.timedelta(days=day, hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("text", "day", "clock", "expected"),
    [
        ("Mon-Sun 02:00-05:00", 0, "02:00", True),
        ("Mon-Sun 02:00-05:00", 0, "04:59", True),
        ("Mon-Sun 02:00-05:00", 0, "05:00", False),
        ("Mon-Sun 02:00-05:00", 3, "01:59", False),
        ("Sat,Sun 22:00-04:00", 5, "22:00", True),
        ("Sat,Sun 22:00-04:00", 6, "03:59", True),
        ("Sat,Sun 22:00-04:00", 7, "03:00", True),  # Sunday's, on Monday
        ("Sat,Sun 22:00-04:00", 1, "03:00", False),
        ("Sat,Sun 22:00-04:00", 4, "23:00", False),
        ("fri-mon 00:00-24:00", 0, "12:00", True),
        ("fri-mon 00:00-24:00", 1, "12:00", False),
        ("Tue 10:00-10:00", 1, "09:00", False),
        ("Tue 10:00-10:00", 2, "09:59", True),  # a whole day
    ],
)
def test_a_window_is_open(text: str, day: int, clock: str, expected: bool) -> None:
    assert is_open(parse_window(text), _at(day, clock)) is expected


@pytest.mark.parametrize(
    "text", ["", "02:00-05:00", "Mon", "Mon 2:00-5:00", "Foo 02:00-05:00", "Mon 25:00-26:00",
             "Mon- 02:00-03:00"],
)  # fmt: skip
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"os\.window"):
        parse_window(text)


@pytest.mark.parametrize(
    "settings",
    [
        OsConfig(key="release.pub"),
        OsConfig(token_file="token"),
        OsConfig(lock="nomad/jobs/x"),
        OsConfig(lock="a b"),
        OsConfig(source="two words"),
        OsConfig(drain_timeout="soon"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: OsConfig) -> None:
    with pytest.raises(ConfigError):
        check_os(settings)


def test_the_defaults_make_sense() -> None:
    check_os(OsConfig())
