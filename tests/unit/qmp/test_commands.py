from pathlib import Path

import pytest
from fakes.fake_qmp import FakeQmp

from qemu_node.errors import QmpError
from qemu_node.qmp import commands
from qemu_node.qmp.connection import QmpClosedError, QmpConnection
from qemu_node.qmp.events import QmpEvent, RunState


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp.sock"


async def test_status_names_the_run_state(path: Path) -> None:
    async with FakeQmp(path, status="paused"), await QmpConnection.connect(path) as connection:
        status = await commands.query_status(connection)
    assert status.status is RunState.PAUSED
    assert not status.running


async def test_unknown_run_state_and_new_members_are_tolerated(path: Path) -> None:
    reply = {"status": "dreaming", "running": False, "since": 11}
    async with (
        FakeQmp(path, replies={"query-status": reply}),
        await QmpConnection.connect(path) as connection,
    ):
        assert (await commands.query_status(connection)).status is RunState.UNKNOWN


async def test_malformed_status_is_an_error(path: Path) -> None:
    async with (
        FakeQmp(path, replies={"query-status": ["running"]}),
        await QmpConnection.connect(path) as connection,
    ):
        with pytest.raises(QmpError, match="answer to query-status is malformed"):
            await commands.query_status(connection)


async def test_version_is_the_running_qemus(path: Path) -> None:
    async with FakeQmp(path), await QmpConnection.connect(path) as connection:
        version = await commands.query_version(connection)
    assert (version.major, version.minor, version.micro) == (10, 0, 0)


async def test_powerdown_and_cont_are_sent_as_such(path: Path) -> None:
    async with FakeQmp(path) as qemu, await QmpConnection.connect(path) as connection:
        await commands.cont(connection)
        await commands.system_powerdown(connection)
        assert qemu.commands == ["cont", "system_powerdown"]
        assert (await commands.query_status(connection)).status is RunState.SHUTDOWN


async def test_quit_ends_the_connection(path: Path) -> None:
    seen: list[QmpEvent] = []
    async with (
        FakeQmp(path),
        await QmpConnection.connect(path, on_event=seen.append) as connection,
    ):
        await commands.quit(connection)
        await connection.wait_closed()
    assert [event.name for event in seen] == ["SHUTDOWN"]


async def test_quit_counts_as_taken_when_qemu_is_gone_before_it_answers(path: Path) -> None:
    async with (
        FakeQmp(path, hang_up=["quit"]),
        await QmpConnection.connect(path) as connection,
    ):
        await commands.quit(connection)
        assert not connection.is_open


async def test_quit_on_a_closed_connection_is_an_error(path: Path) -> None:
    async with FakeQmp(path), await QmpConnection.connect(path) as connection:
        await connection.close()
        with pytest.raises(QmpClosedError, match="quit was not sent"):
            await commands.quit(connection)


async def test_screenshot_must_be_a_png(path: Path) -> None:
    async with FakeQmp(path) as qemu, await QmpConnection.connect(path) as connection:
        with pytest.raises(QmpError, match="not a PNG"):
            await commands.screendump_png(connection)
        add, dump, remove = qemu.received
        fdset = add["arguments"]["fdset-id"]
        assert dump["arguments"] == {"filename": "/proc/self/fd/9", "format": "png"}
        assert (remove["execute"], remove["arguments"]) == ("remove-fd", {"fdset-id": fdset})


async def test_refused_screenshot_takes_its_descriptor_back(path: Path) -> None:
    async with (
        FakeQmp(path, errors={"screendump": "There is no console to take a screendump from"}),
        await QmpConnection.connect(path) as connection,
    ):
        with pytest.raises(QmpError, match="no console"):
            await commands.screendump_png(connection)


async def test_descriptor_is_taken_back_when_the_connection_breaks(path: Path) -> None:
    async with (
        FakeQmp(path, hang_up=["screendump"]),
        await QmpConnection.connect(path) as connection,
    ):
        with pytest.raises(QmpClosedError, match="during screendump"):
            await commands.screendump_png(connection)


@pytest.mark.parametrize(
    ("chardevs", "taken"),
    [
        ([{"label": "serial0", "filename": "disconnected:unix:/x,server=on"}], False),
        ([{"label": "serial0", "filename": "unix:/x,server=on"}], True),
        ([{"label": "qga"}], None),
        ({}, None),
        (["x"], None),
    ],
)
def test_qemu_tells_whether_a_socket_has_a_client(chardevs: object, taken: bool | None) -> None:
    assert commands.has_client(chardevs, "serial0") is taken
