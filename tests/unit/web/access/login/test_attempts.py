"""How often somebody may guess."""

import pytest
from fakes.console import Clock

from qemu_node.web.access.login.attempts import OF_ADDRESS_MAX, OF_ALL_MAX, WINDOW_S, Attempts


def guess(attempts: Attempts, address: str, times: int) -> None:
    for _ in range(times):
        attempts.note_wrong(address)


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_wrong_attempts_are_counted_by_network(first: str, second: str, *, is_one: bool) -> None:
    attempts = Attempts(clock=Clock())
    guess(attempts, first, OF_ADDRESS_MAX)
    assert attempts.wait_s(first) > 0
    assert (attempts.wait_s(second) > 0) is is_one


def test_a_minute_later_there_is_one_more_attempt() -> None:
    clock = Clock()
    attempts = Attempts(clock=clock)
    for _ in range(OF_ADDRESS_MAX):
        attempts.note_wrong("10.0.0.1")
        clock.pass_s(1)
    clock.pass_s(attempts.wait_s("10.0.0.1"))
    assert attempts.wait_s("10.0.0.1") == 0
    attempts.note_wrong("10.0.0.1")
    assert attempts.wait_s("10.0.0.1") > 0


def test_many_addresses_together_have_a_limit_too() -> None:
    clock = Clock()
    attempts = Attempts(clock=clock)
    for number in range(OF_ALL_MAX):
        attempts.note_wrong(f"10.0.{number // 250}.{number % 250}")
    assert attempts.wait_s("192.0.2.1") > 0
    clock.pass_s(WINDOW_S)
    assert attempts.wait_s("192.0.2.1") == 0


def test_what_is_remembered_is_bounded() -> None:
    attempts = Attempts(clock=Clock())
    for number in range(6000):
        attempts.note_wrong(f"10.{number // 65536}.{number // 256 % 256}.{number % 256}")
    assert len(attempts._wrong) <= 4096
    assert len(attempts._all) <= OF_ALL_MAX
