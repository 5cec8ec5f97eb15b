import asyncio
from pathlib import Path

import pytest
from fakes.fake_screens import FakeFleet
from fakes.fake_serial import VM, make_fleet, make_record, until
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.web.viewer.contract import VM_ENDED
from qemu_node.web.viewer.serial.hub import Hub, Hubs, Member

STEPS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=40),
        st.sampled_from(["join", "leave", "pause"]),
    ),
    max_size=60,
)


class Reader:
    """A viewer that keeps up: what it was shown before and what it has read since."""

    def __init__(self, hub: Hub) -> None:
        self.member: Member = hub.join("me", may_type=True)
        self.shown = bytearray(hub.begin(self.member))
        self.reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for frame in self.member.outbox.frames():
            if isinstance(frame, bytes):
                self.shown += frame


@given(STEPS)
def test_whoever_keeps_up_gets_every_byte_in_order(steps: list[bytes | str]) -> None:
    async def run() -> None:
        hub, printed, readers = Hub("vm", FakeFleet()), bytearray(), list[Reader]()
        for step in steps:
            match step:
                case bytes():
                    hub._heard(step)
                    printed += step
                case "join":
                    readers.append(Reader(hub))
                case "leave" if readers:
                    gone = readers.pop(0)
                    hub.leave(gone.member)
                    gone.reading.cancel()
                    assert printed.startswith(gone.shown)
                case _:
                    await asyncio.sleep(0)
        hub.end("over")
        for reader in readers:
            await reader.reading
            assert reader.shown == printed
            assert reader.member.outbox.end == (VM_ENDED, "over")

    asyncio.run(run())


async def test_a_vm_that_runs_again_has_a_port_that_has_not_ended(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_taken(_fleet: object, _vm_id: str) -> bool:
        return True

    monkeypatch.setattr("qemu_node.web.viewer.serial.hub.is_taken", is_taken)
    fleet = make_fleet(short_tmp_path / "s")
    async with Hubs(fleet) as hubs:
        with hubs.joined(VM.vm_id, "me", may_type=True) as (hub, member):
            await until(lambda: hub.state == "taken")
            fleet.end(VM.vm_id, "the guest powered off")
            assert member.outbox.end == (VM_ENDED, "the guest powered off")
            # The earlier hub still waits for its next look at the port.
            fleet.begin(VM, make_record(short_tmp_path / "s"))
            with hubs.joined(VM.vm_id, "me", may_type=True) as (_, another):
                assert another.outbox.end is None
        assert len(hubs) == 1
