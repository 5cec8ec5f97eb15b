import asyncio
from pathlib import Path

import pytest
from fakes.fake_serial import FakePort, until

from qemu_node.web.viewer.serial.serialtap import FAST_BYTES, PAUSE_S, Pacer, Tap, open_port


def paced(rate_bytes_per_s: float, *, piece: int = 6, reads: int = 60_000) -> float:
    """Return the share of reads with a pause, of a guest that prints at a rate."""
    pacer = Pacer()
    pauses = [pacer.pause_s(piece, n * piece / rate_bytes_per_s) > 0 for n in range(reads)]
    return sum(pauses) / reads


@pytest.mark.parametrize(
    ("rate_bytes_per_s", "least", "most"),
    [(11_520, 0.0, 0.0), (60_000, 0.0, 0.0), (300_000, 0.7, 1.0), (30_000_000, 0.7, 1.0)],
)
def test_only_a_guest_that_floods_is_paced(
    rate_bytes_per_s: float, least: float, most: float
) -> None:
    assert least <= paced(rate_bytes_per_s) <= most


def test_a_burst_is_not_paced_and_a_flood_is_forgotten_soon() -> None:
    pacer = Pacer()
    assert pacer.pause_s(FAST_BYTES, 0.0) == 0.0
    assert pacer.pause_s(1, 0.0) == PAUSE_S
    assert pacer.pause_s(100 * FAST_BYTES, 0.0) == PAUSE_S
    assert pacer.pause_s(0, 1.1) == 0.0


def test_a_clock_that_goes_back_changes_nothing() -> None:
    pacer = Pacer()
    assert pacer.pause_s(FAST_BYTES, 100.0) == 0.0
    assert pacer.pause_s(1, 50.0) == PAUSE_S


async def test_a_flood_is_read_whole_beside_others(short_tmp_path: Path) -> None:
    heard = bytearray()
    tap = Tap(heard.extend)
    async with FakePort(short_tmp_path / "s") as port:
        running = asyncio.ensure_future(
            tap.run(await open_port(short_tmp_path / "s"), lambda: None)
        )
        printed = b"0123456789abcdef" * (1 << 14)
        await port.print(printed)
        await until(lambda: heard == printed)
        assert tap.type(b"x")
        await until(lambda: port.typed == b"x")
        port.hang_up()
        await running
    assert not tap.type(b"y")


async def test_no_port_is_an_error(short_tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await open_port(short_tmp_path / "s")
