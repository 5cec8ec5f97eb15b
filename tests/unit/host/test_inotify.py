"""Changes of files as the kernel reports them."""

import asyncio
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.host.inotify import Change, Inotify, Mask, parse_changes

DIRECTORY = Mask.CREATE | Mask.DELETE | Mask.ONLYDIR


async def test_a_file_that_appears_is_reported_by_its_name(tmp_path: Path) -> None:
    heard: asyncio.Queue[Change] = asyncio.Queue()
    inotify = Inotify(heard.put_nowait)
    watch = inotify.watch(tmp_path, DIRECTORY)
    (tmp_path / "ä b").touch()
    change = await heard.get()
    assert (change.watch, change.name) == (watch, "ä b")
    assert change.mask & Mask.CREATE
    inotify.unwatch(watch)
    inotify.unwatch(watch)
    inotify.close()
    inotify.close()


async def test_a_watch_for_one_change_ends_with_it(tmp_path: Path) -> None:
    heard: asyncio.Queue[Change] = asyncio.Queue()
    inotify = Inotify(heard.put_nowait)
    file = tmp_path / "file"
    file.touch()
    inotify.watch(file, Mask.ATTRIB | Mask.DELETE_SELF | Mask.ONESHOT)
    other = tmp_path / "other"
    other.touch()
    other.rename(file)
    masks = [(await heard.get()).mask for _ in range(2)]
    assert masks[0] & Mask.ATTRIB
    assert masks[1] & Mask.IGNORED
    inotify.close()


@pytest.mark.parametrize("name", ["missing", "file"])
async def test_what_is_no_directory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    inotify = Inotify(lambda _: None)
    with pytest.raises(OSError, match=name):
        inotify.watch(tmp_path / name, DIRECTORY)
    inotify.close()


_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), max_size=20)


@given(st.lists(st.tuples(st.integers(1, 2**31 - 1), st.integers(0, 2**32 - 1), _NAMES)))
def test_records_are_taken_apart(records: list[tuple[int, int, str]]) -> None:
    data = b""
    for watch, mask, name in records:
        padded = name.encode() + b"\0" * (16 - len(name.encode()) % 16) if name else b""
        data += struct.pack("iIII", watch, mask, 0, len(padded)) + padded
    assert parse_changes(data) == [Change(*record) for record in records]
