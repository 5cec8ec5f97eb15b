from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.qmp.events import (
    BlockIoError,
    GuestPanicked,
    PanicInfo,
    QmpEvent,
    Shutdown,
    Stop,
    parse_message,
    typed,
)


def event(name: str, **data: Any) -> QmpEvent:
    return QmpEvent(name=name, data={key.replace("_", "-"): value for key, value in data.items()})


@pytest.mark.parametrize(
    ("given_event", "expected"),
    [
        (
            event("SHUTDOWN", guest=True, reason="guest-shutdown", new_member=[1]),
            Shutdown(guest=True, reason="guest-shutdown"),
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
        typed(parsed)
        assert parsed.name.isprintable()
