import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from qemu_node.web.access.session.websocket import SLOW
from qemu_node.web.viewer.serial.outbox import OUTBOX_BYTES, Outbox


async def read(outbox: Outbox) -> list[bytes | str]:
    async with asyncio.timeout(60):
        return [frame async for frame in outbox.frames()]


def joined(frames: Sequence[bytes | str]) -> bytes:
    return b"".join(frame for frame in frames if isinstance(frame, bytes))


@given(st.lists(st.binary(min_size=1, max_size=100)), st.sets(st.integers(0, 50)))
def test_bytes_come_whole_and_in_order(pieces: list[bytes], pauses: set[int]) -> None:
    async def run() -> list[bytes | str]:
        outbox = Outbox()
        reading = asyncio.ensure_future(read(outbox))
        for n, piece in enumerate(pieces):
            outbox.put(piece)
            if n in pauses:
                await asyncio.sleep(0)
        outbox.close(4410, "over")
        return await reading

    assert joined(asyncio.run(run())) == b"".join(pieces)


async def test_a_notice_replaces_one_of_its_kind_that_waits() -> None:
    outbox = Outbox()
    for n in range(3):
        outbox.tell("viewers", f"v{n}")
        outbox.tell("port", f"p{n}")
    outbox.put(b"x")
    outbox.close(4410, "over")
    assert await read(outbox) == ["v2", "p2", b"x"]


async def test_what_comes_before_the_end_is_sent() -> None:
    outbox = Outbox()
    outbox.put(b"last words")
    outbox.close(4410, "powered off")
    outbox.put(b"nothing more")
    outbox.close(4500, "something else")
    assert await read(outbox) == [b"last words"]
    assert outbox.end == (4410, "powered off")
    assert not outbox.cut.is_set()


async def test_who_does_not_read_is_cut_at_the_bound() -> None:
    outbox = Outbox()
    for _ in range(OUTBOX_BYTES >> 16):
        outbox.put(bytes(1 << 16))
    assert not outbox.cut.is_set()
    outbox.put(b"x")
    assert outbox.cut.is_set()
    assert outbox.end is not None
    assert outbox.end[0] == SLOW
    assert await read(outbox) == []


async def test_large_output_comes_in_pieces() -> None:
    outbox = Outbox()
    outbox.put(bytes(range(256)) * 1000)
    outbox.close(4410, "over")
    frames = await read(outbox)
    assert joined(frames) == bytes(range(256)) * 1000
    assert max(map(len, frames)) <= 1 << 16
