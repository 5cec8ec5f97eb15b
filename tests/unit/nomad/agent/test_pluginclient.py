import pytest

from qemu_node.nomad.agent.pluginclient import LogEntry, parse_log_line


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (b'{"@level":"info","@message":"hi","n":1}', {"@level": "info", "@message": "hi", "n": 1}),
        (b"plain text", {"@level": "debug", "@message": "plain text"}),
        (b"[1]", {"@level": "debug", "@message": "[1]"}),
        (b'{"n":1}', {"@level": "debug", "@message": "", "n": 1}),
        (b"\xff", {"@level": "debug", "@message": "\ufffd"}),
        (b"[" * 100_000, {"@level": "debug", "@message": "[" * 100_000}),
    ],
)
def test_log_line_is_read_whatever_it_holds(line: bytes, entry: LogEntry) -> None:
    assert parse_log_line(line) == entry
