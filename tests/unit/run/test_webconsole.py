import socket
from collections.abc import Sequence

import pytest

from qemu_node.config.node import NodeConfig
from qemu_node.errors import HostError
from qemu_node.run.runevents import EventKind, RunEvent
from qemu_node.run.webconsole import WebConsole
from qemu_node.web.service import serving


def ready(vm: str) -> RunEvent:
    return RunEvent(kind=EventKind.READY, message="answers", vm=vm)


def test_events_pass_and_without_a_console_there_is_no_link() -> None:
    shown: list[RunEvent] = []
    console = WebConsole(["a", "b"], shown.append)
    for vm in ("a", "b"):
        console.see(ready(vm))
    assert [event.kind for event in shown] == [EventKind.READY, EventKind.READY]


async def test_a_console_that_fails_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_port(addresses: Sequence[str], port: int) -> list[socket.socket]:
        raise HostError("no port is free")

    monkeypatch.setattr(serving, "listen", no_port)
    shown: list[RunEvent] = []
    await WebConsole(["a"], shown.append).serve(NodeConfig())
    (event,) = shown
    assert event.kind is EventKind.NOTE
    assert event.message == "there is no web console: no port is free"
