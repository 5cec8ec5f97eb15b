import asyncio
import os

from qemu_node.nomad.agent.pipe import LinePipe


async def test_lines_arrive_whole_in_whatever_pieces_they_come() -> None:
    lines: list[bytes] = []
    ended = asyncio.Event()
    with LinePipe(lines.append, on_end=ended.set) as pipe:
        for piece in (b"on", b"e\ntwo\nthr", b"ee"):
            os.write(pipe.writing_end, piece)
            await asyncio.sleep(0)
        pipe.close_writing_end()
        await asyncio.wait_for(ended.wait(), 30)
    assert lines == [b"one", b"two", b"three"]


async def test_endless_line_is_handed_over_in_pieces() -> None:
    lines: list[bytes] = []
    with LinePipe(lines.append) as pipe:
        sent = 0
        while not lines and sent < 100 << 20:
            sent += os.write(pipe.writing_end, b"x" * (1 << 15))
            pipe._read()
        assert 1 << 20 < len(lines[0]) <= 1 << 21


async def test_drain_hands_over_an_unfinished_line() -> None:
    lines: list[bytes] = []
    with LinePipe(lines.append) as pipe:
        os.write(pipe.writing_end, b"a\nlast words")
        pipe.drain()
    assert lines == [b"a", b"last words"]


async def test_closing_twice_is_harmless() -> None:
    pipe = LinePipe(lambda _: None)
    pipe.close()
    pipe.close()
    pipe.drain()
