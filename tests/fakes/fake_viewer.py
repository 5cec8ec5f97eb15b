"""A viewer's socket, after all checks, as its handler sees it."""

import asyncio
from typing import NoReturn

from fakes.web_sessions import make_grant
from qemu_node.web.access.session.grant import Grant
from qemu_node.web.access.session.websocket import HEAD_BYTES


class Ended(Exception):
    """What a socket raises whose viewer has gone."""


class FakeViewer:
    """A browser: `sends` is what it sends, `got` what it has read; it may stop reading."""

    def __init__(self, *, is_control: bool = True) -> None:
        self.is_control = is_control
        self.grant: Grant = make_grant()
        self.sends: asyncio.Queue[bytes | str | None] = asyncio.Queue()
        self.got = bytearray()
        self.notices: list[str] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.end: tuple[int, str] | None = None

    async def send(self, data: bytes | str) -> None:
        await self.reads.wait()
        if isinstance(data, str):
            self.notices.append(data)
        else:
            self.got += data

    def write(self, frame: memoryview) -> bool:
        # What a transport may keep is the buffer itself.
        self.got += frame[HEAD_BYTES:]
        return self.reads.is_set()

    @property
    def has_room(self) -> bool:
        return self.reads.is_set()

    async def room(self) -> None:
        await self.reads.wait()

    async def receive(self) -> bytes | str:
        message = await self.sends.get()
        if message is None:
            raise Ended
        return message

    def fail(self, code: int, reason: str) -> NoReturn:
        self.end = (code, reason)
        raise Ended
