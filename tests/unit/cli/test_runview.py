import dataclasses
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from qemu_node.cli.runview import (
    JsonView,
    LiveView,
    PlainView,
    format_uptime,
    open_view,
    plain_line,
)
from qemu_node.run.runevents import EventKind, RunEvent
from qemu_node.text import clean

READY = RunEvent(
    kind=EventKind.READY,
    message="the guest agent of web-0 answers",
    vm="g[0]",
    details={"host_name": "web-0", "address": "127.0.0.1:20022 → 22", "secure_boot": True},
)


def event(
    kind: EventKind, message: str = "x", vm: str | None = "g[0]", **details: object
) -> RunEvent:
    return RunEvent(kind=kind, message=message, vm=vm, details=details)


def test_json_has_one_object_per_line_with_the_events_details() -> None:
    stream = io.StringIO()
    JsonView(stream, now=lambda: datetime(2026, 1, 2, tzinfo=UTC)).show(READY)
    assert json.loads(stream.getvalue()) == {
        "time": "2026-01-02T00:00:00.000+00:00",
        "event": "ready",
        "vm": "g[0]",
        "message": "the guest agent of web-0 answers",
        "host_name": "web-0",
        "address": "127.0.0.1:20022 → 22",
        "secure_boot": True,
    }


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        (
            READY,
            "g[0]: the guest agent of web-0 answers; Secure Boot enabled; 127.0.0.1:20022 → 22",
        ),
        (event(EventKind.STEP, "Downloading image: 40 %"), "g[0]: Downloading image: 40 %"),
        (event(EventKind.FAILED, "no image"), "g[0]: failed: no image"),
        (event(EventKind.CONSOLE, "boot\x1b[2J"), "g[0]: console: boot�[2J"),
        (event(EventKind.LOG, "login:\x1b[2J"), "g[0] | login:�[2J"),
        (event(EventKind.NOTE, "skipped: g/x (exec)", vm=None), "skipped: g/x (exec)"),
    ],
)
def test_a_plain_line_says_it_all(shown: RunEvent, line: str) -> None:
    assert plain_line(shown) == line


def test_plain_lines_carry_the_time() -> None:
    stream = io.StringIO()
    PlainView(stream).show(event(EventKind.STEP, "starting"))
    assert stream.getvalue()[2] == ":"
    assert stream.getvalue().endswith(" g[0]: starting\n")


def test_the_table_follows_the_events() -> None:
    stream = io.StringIO()
    now = [100.0]
    view = LiveView(stream, clock=lambda: now[0])
    view.show(event(EventKind.STEP, "Downloading image: 40 %"))
    view.show(event(EventKind.STEP, "starting", vm="g[1]"))
    assert cells(view)[0][:2] == ["g[0]", "Downloading image: 40 %"]
    view.show(event(EventKind.RUNNING))
    now[0] = 165.0
    view.show(READY)
    assert cells(view)[0] == [
        "g[0]", "ready", "web-0", "enabled", "127.0.0.1:20022 → 22", "1:05",
    ]  # fmt: skip
    view.show(event(EventKind.EXITED, "stopped"))
    assert cells(view)[0][1] == "stopped"
    assert cells(view)[0][5] == ""


def test_a_failure_is_told_once_above_the_table() -> None:
    stream = io.StringIO()
    view = LiveView(stream)
    view.show(event(EventKind.CONSOLE, "Kernel panic"))
    view.show(event(EventKind.FAILED, "no image (list it in image_paths)"))
    drawn = stream.getvalue() + draw(view)
    assert drawn.count("list it in image_paths") == 1
    assert cells(view)[0][1] == "failed"
    assert "Kernel panic" not in drawn


def test_the_picture_in_the_docs_is_what_a_terminal_shows() -> None:
    now = [0.0]
    view = LiveView(io.StringIO(), clock=lambda: now[0])
    for vm in ("web[0]", "web[1]", "web[2]"):
        view.show(event(EventKind.STEP, "Downloading image: 68 %", vm=vm))
    for vm, port in (("web[0]", 20022), ("web[1]", 28514)):
        address = f"127.0.0.1:{port} → 22"
        view.show(event(EventKind.RUNNING, "waiting for its guest agent", vm=vm, address=address))
        view.show(event(EventKind.CONSOLE, "[    4.911] systemd[1]: Starting ssh.service", vm=vm))
    now[0] = 21.0
    view.show(dataclasses.replace(READY, vm="web[0]"))
    page = (Path(__file__).parents[3] / "docs" / "run.md").read_text()
    assert draw(view) in page


def draw(view: LiveView) -> str:
    """Return what `view` draws on a terminal of 100 columns, without colours."""
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(view.picture())
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def cells(view: LiveView) -> list[list[str]]:
    columns = [[str(cell) for cell in column.cells] for column in view.table().columns]
    return [list(row) for row in zip(*columns, strict=True)]


def test_a_hostile_guest_cannot_steer_the_terminal() -> None:
    hostile = event(EventKind.READY, "x", host_name="\x1b]0;pwned\x07[red]", address="\x9b2J")
    view = LiveView(io.StringIO())
    view.show(hostile)
    shown = "".join(cells(view)[0]) + plain_line(hostile)
    assert not set(shown) & {"\x1b", "\x07", "\x9b"}
    assert "[red]" in shown


def test_without_a_terminal_lines_are_plain() -> None:
    with open_view(io.StringIO(), as_json=False) as view:
        assert isinstance(view, PlainView)
    with open_view(io.StringIO(), as_json=True) as view:
        assert isinstance(view, JsonView)


def test_clean_keeps_text_and_drops_what_reorders_it() -> None:
    assert clean("ä → 日本\u202e") == "ä → 日本�"


@pytest.mark.parametrize(
    ("since_s", "text"), [(None, ""), (0.0, "2:46:40"), (9_940.0, "1:00"), (10_000.0, "0:00")]
)
def test_uptime_reads_like_a_clock(since_s: float | None, text: str) -> None:
    assert format_uptime(since_s, 10_000.0) == text
