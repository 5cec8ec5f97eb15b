import asyncio

from fakes.fake_screens import FakeFleet
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.web.viewer.contract import VM_ENDED
from qemu_node.web.viewer.serial.hub import Hub, Member

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
