"""How a session looks: a live table on a terminal, plain lines elsewhere, JSON lines for programs.

Owns the three forms. What comes from a guest is cleaned of anything that is not text before it is
shown. Does not own what there is to show (`run.runevents`).
"""

import json
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, TextIO

from qemu_node.run.runevents import EventKind, RunEvent, VMRow, update_row
from qemu_node.text import clean

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


class View(Protocol):
    """Shows events."""

    console_every_s: float
    """How often the last line of a booting guest's console is worth showing."""

    def show(self, event: RunEvent) -> None:
        """Show one event."""


@contextmanager
def open_view(stream: TextIO, *, as_json: bool) -> Generator[View]:
    """Give the view that suits `stream`."""
    if as_json:
        yield JsonView(stream)
    elif not stream.isatty():
        yield PlainView(stream)
    else:
        from rich.live import Live

        view = LiveView(stream)
        with Live(get_renderable=view.picture, console=view.console, refresh_per_second=4):
            yield view


class _LineView:
    """A view that writes a line per event."""

    console_every_s = 10.0

    def __init__(
        self, stream: TextIO, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._stream = stream
        self._now = now

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def _write_aside(self, event: RunEvent) -> None:
        """Write on stderr what is for a person alone: stdout may be a program's or a log."""
        sys.stderr.write(plain_line(event) + "\n")
        sys.stderr.flush()


class JsonView(_LineView):
    """One JSON object per event: `time`, `event`, `vm`, `message`, and the event's details."""

    def show(self, event: RunEvent) -> None:
        """Show one event."""
        if event.kind is EventKind.WEB:
            self._write_aside(event)
            return
        fields = {
            "time": self._now().isoformat(timespec="milliseconds"),
            "event": event.kind.value,
            "vm": event.vm,
            "message": event.message,
        }
        self._write(json.dumps(fields | dict(event.details), ensure_ascii=False))


class PlainView(_LineView):
    """A line per event: time, VM, what happened."""

    def show(self, event: RunEvent) -> None:
        """Show one event."""
        if event.kind is EventKind.WEB:
            self._write_aside(event)
            return
        self._write(f"{self._now().astimezone():%H:%M:%S} {plain_line(event)}")


def plain_line(event: RunEvent) -> str:
    """Return an event on one line, without its time."""
    prefix = f"{event.vm}: " if event.vm else ""
    if event.kind is EventKind.LOG:
        return f"{event.vm} | {clean(event.message)}"
    if event.kind is EventKind.CONSOLE:
        return f"{prefix}console: {clean(event.message)}"
    text = clean(event.message)
    if event.kind is EventKind.FAILED:
        text = f"failed: {text}"
    if event.kind is EventKind.READY:
        text += f"; {_secure_boot(event.details.get('secure_boot'))}"
    if event.kind in (EventKind.RUNNING, EventKind.READY) and event.details.get("address"):
        text += f"; {clean(str(event.details['address']))}"
    return prefix + text


def _secure_boot(seen: object) -> str:
    if not isinstance(seen, bool):
        return "Secure Boot not asked"
    return f"Secure Boot {'enabled' if seen else 'disabled'}"


class LiveView:
    """A table of all VMs, redrawn in place; notes and log lines scroll above it.

    Below it is the last line of the console of each guest that says nothing else yet.
    """

    console_every_s = 0.5

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console

        self.console = Console(file=stream, highlight=False)
        self._clock = clock
        self._rows: dict[str, VMRow] = {}

    def show(self, event: RunEvent) -> None:
        """Show one event."""
        from rich.text import Text

        if event.vm is not None:
            row = self._rows.get(event.vm, VMRow(vm=event.vm))
            self._rows[event.vm] = update_row(row, event, self._clock())
        if event.vm is None or event.kind in (EventKind.LOG, EventKind.NOTE, EventKind.FAILED):
            style = "red" if event.kind is EventKind.FAILED else ""
            self.console.print(Text(plain_line(event), style=style), soft_wrap=True)

    def picture(self) -> "Group":
        """Return the table and the consoles' lines as they are now."""
        from rich.console import Group
        from rich.text import Text

        lines = [
            Text(f"{row.vm} | {clean(row.console)}", "dim", no_wrap=True, overflow="ellipsis")
            for row in self._rows.values()
            if row.console
        ]
        return Group(self.table(), *lines)

    def table(self) -> "Table":
        """Return the table as it is now."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for title in ("VM", "Step", "Guest agent", "Secure Boot", "Address", "Uptime"):
            table.add_column(title, overflow="fold")
        for row in self._rows.values():
            style = "red" if row.has_failed else "green" if row.step == "ready" else ""
            table.add_row(
                Text(row.vm),
                Text(clean(row.step), style=style),
                Text(clean(row.agent)),
                Text({True: "enabled", False: "disabled", None: ""}[row.secure_boot]),
                Text(clean(row.address)),
                Text(format_uptime(row.running_since_s, self._clock())),
            )
        return table


def format_uptime(since_s: float | None, now_s: float) -> str:
    """Return the time since `since_s` as `m:ss` or `h:mm:ss`; nothing for None."""
    if since_s is None:
        return ""
    minutes, seconds = divmod(int(now_s - since_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
