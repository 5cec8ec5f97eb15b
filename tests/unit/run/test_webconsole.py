from qemu_node.config.node import NodeConfig
from qemu_node.config.web import WebConfig
from qemu_node.run.runevents import EventKind, RunEvent
from qemu_node.run.webconsole import WebConsole


def ready(vm: str) -> RunEvent:
    return RunEvent(kind=EventKind.READY, message="answers", vm=vm)


def test_events_pass_and_without_a_console_there_is_no_link() -> None:
    shown: list[RunEvent] = []
    console = WebConsole(["a", "b"], shown.append)
    for vm in ("a", "b"):
        console.see(ready(vm))
    assert [event.kind for event in shown] == [EventKind.READY, EventKind.READY]


async def test_a_console_that_fails_is_a_note() -> None:
    shown: list[RunEvent] = []
    config = NodeConfig(web=WebConfig(port=1 << 20))
    await WebConsole(["a"], shown.append).serve(config)
    (event,) = shown
    assert event.kind is EventKind.NOTE
    assert "there is no web console: " in event.message
