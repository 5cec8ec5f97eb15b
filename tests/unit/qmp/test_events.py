from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.qmp.events import (
    BlockIoError,
    GuestEndKind,
    GuestPanicked,
    PanicInfo,
    QmpEvent,
    Reset,
    RunState,
    Shutdown,
    StatusInfo,
    Stop,
    guest_end_of_event,
    guest_end_of_status,
    parse_message,
    printable,
    typed,
)


def event(name: str, **data: Any) -> QmpEvent:
    return QmpEvent(
        name=name, data={key.replace("_", "-"): value for key, value in data.items()}, timestamp_s=0
    )


@pytest.mark.parametrize(
    ("given_event", "expected"),
    [
        (
            event("SHUTDOWN", guest=True, reason="guest-shutdown"),
            Shutdown(guest=True, reason="guest-shutdown"),
        ),
        (
            event("RESET", guest=True, reason="guest-reset", new_member=[1]),
            Reset(guest=True, reason="guest-reset"),
        ),
        (event("STOP"), Stop()),
        (event("GUEST_PANICKED", action="pause"), GuestPanicked(action="pause")),
        (
            event("GUEST_PANICKED", action="pause", info={"type": "hyper-v", "arg1": 0x1E}),
            GuestPanicked(action="pause", info=PanicInfo(type="hyper-v", arg1=0x1E)),
        ),
        (
            event(
                "BLOCK_IO_ERROR",
                operation="write",
                action="stop",
                nospace=True,
                node_name="disk0",
                device="",
                reason="No space left on device",
            ),
            BlockIoError(
                operation="write",
                action="stop",
                nospace=True,
                node_name="disk0",
                reason="No space left on device",
            ),
        ),
        (event("RTC_CHANGE", offset=1), None),
        (event("SHUTDOWN", guest="yes"), None),
        (event("SHUTDOWN", guest=True, reason="\x1b[2J"), None),
        (event("SHUTDOWN", guest=True, reason="x" * 100_000), None),
        (event("GUEST_PANICKED", action="pause", info={"type": "hyper-v", "arg1": "0x1e"}), None),
    ],
)
def test_event_is_read_or_counts_as_not_said(given_event: QmpEvent, expected: object) -> None:
    assert typed(given_event) == expected


@pytest.mark.parametrize(
    ("given_event", "kind", "reason"),
    [
        (
            event("SHUTDOWN", guest=True, reason="guest-shutdown"),
            GuestEndKind.POWERED_OFF,
            "the guest powered off",
        ),
        (
            event("GUEST_PANICKED", action="pause"),
            GuestEndKind.PANICKED,
            "the guest's kernel panicked",
        ),
        (
            event("SHUTDOWN", guest=True, reason="guest-panic"),
            GuestEndKind.PANICKED,
            "the guest's kernel panicked",
        ),
        (
            event(
                "GUEST_PANICKED",
                action="pause",
                info={"type": "hyper-v", "arg1": (1 << 9000) + 0x7E, "arg3": 2, "arg5": 1 << 63},
            ),
            GuestEndKind.PANICKED,
            "the guest's kernel panicked: Windows bug check 0x7e "
            "(0x0, 0x2, 0x0, 0x8000000000000000)",
        ),
        (
            event("GUEST_PANICKED", action="pause", info={"type": "tdx", "message": "bad\x1b"}),
            GuestEndKind.PANICKED,
            "the guest's kernel panicked (tdx): bad?",
        ),
        (
            event("WATCHDOG", action="pause"),
            GuestEndKind.WATCHDOG,
            "the guest hung or halted: it no longer fed its watchdog",
        ),
    ],
)
def test_guests_own_end_is_told_with_its_reason(
    given_event: QmpEvent, kind: GuestEndKind, reason: str
) -> None:
    end = guest_end_of_event(given_event)
    assert end is not None
    assert (end.kind, end.reason) == (kind, reason)
    assert end.is_failure == (kind is not GuestEndKind.POWERED_OFF)


@pytest.mark.parametrize(
    "given_event",
    [
        event("SHUTDOWN", guest=False, reason="host-qmp-quit"),
        event("SHUTDOWN", guest=False, reason="host-signal"),
        event("RESET", guest=True, reason="guest-reset"),
        event("POWERDOWN"),
        event("WATCHDOG", action="reset"),
        event("STOP"),
    ],
)
def test_reboot_or_end_forced_from_outside_is_no_end_of_the_guests_own(
    given_event: QmpEvent,
) -> None:
    assert guest_end_of_event(given_event) is None


def test_every_run_state_is_an_end_or_not() -> None:
    ends = {
        state: end.kind
        for state in RunState
        if (end := guest_end_of_status(StatusInfo(status=state, running=False))) is not None
    }
    assert ends == {
        RunState.SHUTDOWN: GuestEndKind.POWERED_OFF,
        RunState.GUEST_PANICKED: GuestEndKind.PANICKED,
        RunState.INTERNAL_ERROR: GuestEndKind.INTERNAL_ERROR,
        RunState.WATCHDOG: GuestEndKind.WATCHDOG,
    }


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ({"seconds": 10, "microseconds": 500_000}, 10.5),
        ({"seconds": -1, "microseconds": -1}, 0.0),
        ({}, 0.0),
        ({"seconds": 1 << 62, "microseconds": 0}, 0.0),
    ],
)
def test_timestamp_is_zero_where_qemu_has_none(timestamp: dict[str, int], expected: float) -> None:
    parsed = parse_message({"event": "STOP", "timestamp": timestamp})
    assert parsed is not None
    assert parsed.timestamp_s == expected


def test_a_guest_that_waits_for_disk_space_has_not_ended() -> None:
    waiting = StatusInfo(status=RunState.IO_ERROR, running=False)
    assert guest_end_of_status(waiting) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
names = st.sampled_from(["SHUTDOWN", "RESET", "STOP", "GUEST_PANICKED", "BLOCK_IO_ERROR"])
members = st.sampled_from(["guest", "reason", "action", "info", "type", "nospace", "operation"])


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {"event": names | json_values},
        optional={
            "data": st.dictionaries(members, json_values) | json_values,
            "timestamp": json_values,
        },
    )
)
def test_no_message_makes_reading_an_event_fail(message: dict[str, object]) -> None:
    parsed = parse_message(message)
    if parsed is not None:
        end = guest_end_of_event(parsed)
        assert end is None or end.reason.isprintable()
        assert parsed.name.isprintable()


@settings(max_examples=200)
@given(st.text())
def test_printable_text_is_one_bounded_line(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text * 100)) <= 400
