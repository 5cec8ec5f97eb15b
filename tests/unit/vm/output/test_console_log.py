import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.vm.output import console_log
from qemu_node.vm.output.console_log import ConsolePump, PumpTurns, TokenBucket
from qemu_node.vm.output.serial import SerialLog
from qemu_node.vm.output.textfilter import TerminalFilter

KIB = 1 << 10
MIB = 1 << 20


class Console:
    """A guest's serial log, its pump, and what has arrived in the task's log."""

    def __init__(self, path: Path, rate: int = MIB, burst: int = 4 * MIB) -> None:
        path.touch()
        self.path = path
        self.logged = b""
        self.refusal: OSError | None = None
        self.pump = self.new_pump(rate, burst)

    def new_pump(self, rate: int = MIB, burst: int = 4 * MIB) -> ConsolePump:
        bucket = TokenBucket(rate, burst)
        return ConsolePump(SerialLog(self.path), TerminalFilter(), bucket, self.sink)

    def sink(self, data: bytes) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.logged += data

    def print(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    console = Console(tmp_path / "serial.log")
    yield console
    console.pump.close()


def test_whole_lines_move_at_once_as_text(console: Console) -> None:
    console.print(b"\x1b[1mone\x1b[0m\r\ntwo\r\nthr")
    assert console.pump.poll(0.0) == len(b"\x1b[1mone\x1b[0m\r\ntwo\r\n")
    assert console.logged == b"one\ntwo\n"
    assert console.pump.poll(0.1) == 0
    console.print(b"ee\r\n")
    console.pump.poll(0.2)
    assert console.logged == b"one\ntwo\nthree\n"


def test_a_prompt_appears_after_a_second_of_silence(console: Console) -> None:
    console.print(b"login: ")
    console.pump.poll(0.0)
    console.pump.poll(0.9)
    assert console.logged == b""
    console.print(b"r")
    console.pump.poll(1.1)
    console.pump.poll(1.9)
    assert console.logged == b""
    console.pump.poll(2.2)
    assert console.logged == b"login: r"


def test_a_long_line_moves_in_pieces_without_waiting(console: Console) -> None:
    console.print(b"x" * 10_000)
    console.pump.poll(0.0)
    assert console.logged == b"x" * 10_000


def test_a_partial_line_is_not_lost_when_the_driver_dies(console: Console) -> None:
    console.print(b"one\nhal")
    console.pump.poll(0.0)
    console.pump.close()
    console.pump = console.new_pump()
    console.print(b"f\n")
    console.pump.poll(0.0)
    assert console.logged == b"one\nhalf\n"


def test_what_the_sink_refused_is_still_there_and_told_once(
    console: Console, caplog: pytest.LogCaptureFixture
) -> None:
    console.refusal = OSError(errno.EIO, "Input/output error")
    console.print(b"precious\n")
    assert console.pump.poll(0.0) == 0
    assert console.pump.poll(0.1) == 0
    assert len(caplog.records) == 1
    console.refusal = None
    console.pump.poll(0.2)
    assert console.logged == b"precious\n"


def test_the_rate_holds_for_long_and_a_burst_waits_instead_of_being_lost(tmp_path: Path) -> None:
    console = Console(tmp_path / "serial.log", rate=10 * KIB, burst=40 * KIB)
    line = b"a line of the guest's log\n"
    printed = line * (200 * KIB // len(line))
    console.print(printed)
    now = 0.0
    for _ in range(20):
        console.pump.poll(now)
    assert 30 * KIB < len(console.logged) <= 40 * KIB
    while len(console.logged) < len(printed):
        now += 0.25
        console.pump.poll(now)
        assert now < 60
        assert len(console.logged) <= 40 * KIB + now * 10 * KIB
    assert console.logged == printed
    console.pump.close()


def test_a_flood_loses_its_oldest_part_and_one_line_says_how_much(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_log, "BACKLOG_BYTES", 100_000)
    console.print(b"half")
    console.pump.poll(0.0)
    console.pump.poll(1.0)
    printed = b"".join(b"<%06d>\n" % number for number in range(25_000))
    console.print(printed)
    now = 1.0
    while console.pump.poll(now):
        now += 0.01
    assert console.logged.startswith(
        b"half\n[125000 bytes dropped: more than 1.0 MiB a second were printed]\n"
    )
    assert console.logged.count(b"dropped") == 1
    assert console.logged.endswith(printed[-90_000:])


@pytest.mark.parametrize("burst", [10, 400])
def test_a_tiny_rate_moves_text_too(tmp_path: Path, burst: int) -> None:
    console = Console(tmp_path / "serial.log", rate=10, burst=burst)
    console.print(b"x" * 1000 + b"\n")
    for second in range(200):
        console.pump.poll(float(second))
    assert console.logged == b"x" * 1000 + b"\n"
    console.pump.close()


def test_drain_moves_all_that_is_left_whatever_the_rate(tmp_path: Path) -> None:
    console = Console(tmp_path / "serial.log", rate=1, burst=1)
    console.print(b"last words\n" * 100_000 + b"panic")
    while console.pump.drain_some():
        pass
    console.pump.finish()
    assert console.logged == b"last words\n" * 100_000 + b"panic\n"


def test_finish_keeps_the_newest_and_may_come_twice(tmp_path: Path) -> None:
    console = Console(tmp_path / "serial.log")
    console.print(b"flood\n" * 400_000 + b"kernel panic")
    console.pump.finish()
    console.pump.finish()
    assert b"bytes dropped" in console.logged[:100]
    assert console.logged.endswith(b"flood\nkernel panic\n")
    assert len(console.logged) < 1 * MIB + 200
    assert console.pump.poll() == 0


def test_the_end_of_what_was_moved_can_still_be_quoted(console: Console) -> None:
    console.print(b"x" * 5000 + b"\nqemu: \x1b[1mcould not open disk\x1b[0m\n")
    console.pump.poll(0.0)
    assert console.pump.tail.endswith(b"\nqemu: could not open disk\n")
    assert len(console.pump.tail) == 1000


def test_an_idle_pump_costs_one_look_at_the_size(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    console.print(b"boot\n")
    console.pump.poll(0.0)

    def unexpected(*_: object) -> None:
        raise AssertionError

    for name in ("pread", "lseek", "pwrite"):
        monkeypatch.setattr(os, name, unexpected)
    assert console.pump.poll(1.0) == 0


def test_a_round_moves_everything_that_waits(tmp_path: Path) -> None:
    consoles = [Console(tmp_path / str(number)) for number in range(3)]
    for console in consoles:
        console.print(b"a line\n" * 20_000)
    turns = PumpTurns()
    for _ in range(100):
        turns.poll([console.pump for console in consoles])
        if all(len(console.logged) == 140_000 for console in consoles):
            break
    assert [len(console.logged) for console in consoles] == [140_000] * 3
    for console in consoles:
        console.pump.close()


def test_a_round_that_took_too_long_goes_on_with_the_next_pump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consoles = [Console(tmp_path / str(number)) for number in range(4)]
    clock = 0.0

    def slow_clock() -> float:
        nonlocal clock
        clock += 0.02
        return clock

    monkeypatch.setattr("time.monotonic", slow_clock)
    turns = PumpTurns()
    pumps = [console.pump for console in consoles]
    for console in consoles:
        console.print(b"line\n")
    turns.poll(pumps)
    assert [bool(console.logged) for console in consoles] == [True, True, False, False]
    turns.poll(pumps)
    assert all(console.logged for console in consoles)
    # A pump that has gone meanwhile is no place to begin.
    turns.poll(pumps[:1])
    for console in consoles:
        console.pump.close()


def test_a_serial_log_that_fails_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    broken, whole = Console(tmp_path / "broken"), Console(tmp_path / "whole")
    broken.path.unlink()
    whole.print(b"line\n")
    PumpTurns().poll([broken.pump, whole.pump])
    assert whole.logged == b"line\n"
    assert "could not be logged" in caplog.text
    whole.pump.close()


def test_a_full_bucket_grants_its_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(rate_bytes_per_s=100, burst_bytes=400)
    assert bucket.take(1000, now=5.0) == 400
    assert bucket.take(1000, now=5.0) == 0
    assert bucket.take(1000, now=6.5) == 150


def test_an_idle_bucket_fills_no_further_than_its_burst() -> None:
    bucket = TokenBucket(rate_bytes_per_s=100, burst_bytes=400)
    assert bucket.available(0.0) == 400
    assert bucket.available(1e9) == 400


def test_a_clock_that_stands_or_goes_back_grants_nothing_new() -> None:
    bucket = TokenBucket(rate_bytes_per_s=100, burst_bytes=400)
    bucket.take(400, now=10.0)
    assert bucket.available(9.0) == 0


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 5000)), max_size=30),
    st.integers(1, 1000),
    st.integers(0, 1000),
)
def test_no_more_than_burst_and_rate_ever_passes(
    steps: list[tuple[float, int]], rate: int, burst: int
) -> None:
    bucket, now, passed = TokenBucket(rate, burst), 0.0, 0
    for pause, wanted in steps:
        now += pause
        passed += bucket.take(wanted, now)
    assert passed <= burst + rate * now + 1
