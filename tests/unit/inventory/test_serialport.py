import asyncio
from pathlib import Path

import pytest
from fakes.unix_peer import UnixPeer

from qemu_node.config.node import Paths
from qemu_node.inventory.serialport import Join, join_any, shared_sockets


class FakeConsole(UnixPeer):
    """A console that answers so; None: not at all."""

    def __init__(self, path: Path, answer: bytes | None) -> None:
        super().__init__(path)
        self.asked: list[bytes] = []
        self._answer = answer

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readline())
        if self._answer is not None:
            writer.write(self._answer)
        _ = await reader.read()


def test_the_daemon_is_asked_before_a_run() -> None:
    found = shared_sockets(Paths(run="/run/x", data="/d"), "web-0123456789ab")
    assert [str(path) for path in found] == [
        "/run/x/web/web-0123456789ab.sock",
        "/run/x/web-run/web-0123456789ab.sock",
    ]


async def test_what_follows_the_answer_is_the_guests(short_tmp_path: Path) -> None:
    path = short_tmp_path / "s"
    async with FakeConsole(path, b"open\nlogin: ") as console:
        sock = await join_any([path], Join.VIEW)
        assert sock is not None
        with sock:
            assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"login: "
        assert console.asked == [b"view\n"]


@pytest.mark.parametrize("answer", [b"taken\n", b"lost\n", b"x" * 1000, b"", None])
async def test_a_console_that_does_not_share_is_passed_over(
    short_tmp_path: Path, answer: bytes | None
) -> None:
    one, two = short_tmp_path / "1", short_tmp_path / "2"
    async with FakeConsole(one, answer), FakeConsole(two, b"open\n") as console:
        assert await join_any([one, short_tmp_path / "none"], Join.SHARE, timeout_s=0.2) is None
        sock = await join_any([one, two], Join.SHARE, timeout_s=0.2)
        assert sock is not None
        sock.close()
        assert console.asked == [b"share\n"]
