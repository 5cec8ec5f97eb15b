from pathlib import Path

import pytest
from fakes.command_line import Node

from qemu_node.cli.vm.logs import follow_log, last_lines
from qemu_node.vm.record.directory import VMDirectory

Output = pytest.CaptureFixture[str]


def log_of(node: Node, data: bytes, **changes: object) -> None:
    """Publish a VM whose guest has printed `data`."""
    record = node.publish(**changes)
    logs = Path(record.alloc_dir) / "alloc" / "logs"
    logs.mkdir(parents=True)
    (logs / "web.stdout.0").write_bytes(data)


def test_the_log_is_text_that_cannot_act_on_a_terminal(node: Node, capsys: Output) -> None:
    log_of(node, b"boot\x1b[2J\x1b]52;c;aGk=\x07ed\nlogin: ")
    assert node.vm("logs", "web") == 0
    assert capsys.readouterr().out == "booted\nlogin: "
    assert node.vm("logs", "--raw", "web") == 0
    assert capsys.readouterr().out == "boot\x1b[2J\x1b]52;c;aGk=\x07ed\nlogin: "


def test_what_the_driver_has_not_moved_yet_comes_last(node: Node, capsys: Output) -> None:
    log_of(node, b"one\ntwo\n")
    record = node.publish()
    VMDirectory.of(node.paths, record.vm_id).serial_log.write_bytes(b"three\n")
    assert node.vm("logs", "web") == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\n"
    for lines, shown in ((0, ""), (1, "three\n"), (2, "two\nthree\n")):
        assert node.vm("logs", "-n", str(lines), "web") == 0
        assert capsys.readouterr().out == shown


def test_a_vm_that_has_ended_is_followed_to_its_last_line(
    node: Node, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qemu_node.cli.vm.logs._LAST_S", 0.5)
    log_of(node, b"one\ntwo\n", start_time=1)
    assert node.vm("logs", "-f", "-n", "1", "web") == 0
    assert capsys.readouterr() == ("two\n", "the VM has ended\n")


def test_a_vm_without_a_log_is_an_error_that_names_where_it_was_looked_for(
    node: Node, capsys: Output
) -> None:
    record = node.publish()
    assert node.vm("logs", "web") == 1
    assert f"{record.alloc_dir}/alloc/logs" in capsys.readouterr().err


def test_following_ends_once_the_vm_has_and_its_last_lines_have_come() -> None:
    said = iter([b"a", b"", b"", b"b", b"", b"last", *[b""] * 100])
    running = iter([True] * 5 + [False] * 100)
    slept: list[float] = []
    shown = list(follow_log(lambda: next(said), lambda: next(running), slept.append))
    assert shown == [b"a", b"b", b"last"]
    assert sum(slept) >= 2.0


@pytest.mark.parametrize(
    ("data", "lines", "last", "missing"),
    [
        (None, 3, None, 3),
        (b"", 3, b"", 3),
        (b"a\nb", 1, b"b", 0),
        (b"a\nb\n", 0, b"", 0),
        (b"a\nb\n", 5, b"a\nb\n", 3),
    ],
)
def test_last_lines_tell_how_many_are_missing_before_them(
    data: bytes | None, lines: int, last: bytes | None, missing: int
) -> None:
    assert last_lines(data, lines) == (last, missing)
