import json
import logging
import math
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.nomad.plugin import log as plugin_log
from qemu_node.nomad.plugin.log import JsonLinesFormatter, NonBlockingHandler, redact

_GO_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")


def _record(message: object = "hello", **fields: Any) -> logging.LogRecord:
    defaults = {"name": "qemu_node.x", "levelno": logging.INFO, "msg": message}
    return logging.makeLogRecord(defaults | fields)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    line = JsonLinesFormatter().format(record)
    assert "\n" not in line
    fields: dict[str, Any] = json.loads(line)
    return fields


@pytest.mark.parametrize(
    ("level", "name"),
    [(5, "trace"), (10, "debug"), (20, "info"), (30, "warn"), (40, "error"), (50, "error")],
)
def test_levels_have_the_agent_s_names(level: int, name: str) -> None:
    assert _fields(_record(levelno=level))["@level"] == name


@pytest.mark.parametrize("created", [0.0, 1.0, 1795329600.000001, 1795329600.999999])
def test_timestamp_always_has_six_decimals(created: float) -> None:
    assert _GO_TIMESTAMP.fullmatch(_fields(_record(created=created))["@timestamp"])


@pytest.mark.parametrize("message", [5, None, {"a": 1}, ValueError("x"), "a\nb", "\ud800"])
def test_agent_s_own_fields_are_strings_whatever_was_logged(message: object) -> None:
    fields = _fields(_record(message))
    assert all(isinstance(fields[key], str) for key in fields if key.startswith("@"))


def test_extra_field_cannot_pass_for_one_of_the_agent_s_own() -> None:
    fields = _fields(_record(**{"@level": 7, "@message": [1]}))
    assert (fields["@level"], fields["@message"]) == ("info", "hello")
    assert (fields["level"], fields["message"]) == (7, [1])


def test_extra_fields_keep_their_json_types() -> None:
    fields = _fields(_record(count=3, ratio=0.5, is_on=True, names=["a"], nested={"k": None}))
    assert fields["count"] == 3
    assert fields["ratio"] == 0.5
    assert fields["is_on"] is True
    assert (fields["names"], fields["nested"]) == (["a"], {"k": None})


@pytest.mark.parametrize("value", [math.nan, math.inf, {("a",): 1}, b"\xff", object()])
def test_value_that_json_cannot_hold_becomes_text(value: object) -> None:
    assert isinstance(_fields(_record(value=value))["value"], str)


def test_traceback_is_one_field() -> None:
    with pytest.raises(ValueError, match="boom") as caught:
        raise ValueError("boom")
    record = _record(exc_info=(caught.type, caught.value, caught.tb))
    assert "ValueError: boom" in _fields(record)["traceback"]


def test_arguments_that_do_not_fit_the_message_are_shown_beside_it() -> None:
    assert "%d" in _fields(_record("%d", args=("x",)))["@message"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/x", "https://***@host/x"),
        ("https://me@host/x", "https://***@host/x"),
        ("https://h/x?X-Amz-Signature=abc&y=1", "https://h/x?X-Amz-Signature=***&y=1"),
        ("https://h/x?token=abc", "https://h/x?token=***"),
        ("mail a@b and https://h/p@q", "mail a@b and https://h/p@q"),
    ],
)
def test_what_grants_access_is_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_secrets_are_hidden_in_messages_fields_and_tracebacks() -> None:
    url = "https://me:hunter2@host/image"
    with pytest.raises(ValueError, match="host") as caught:
        raise ValueError(url)
    info = (caught.type, caught.value, caught.tb)
    record = _record(f"get {url}", url=url, urls=[url], auth_token="hunter2", exc_info=info)
    assert "hunter2" not in JsonLinesFormatter().format(record)


@given(
    st.text(max_size=200), st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4)
)
@settings(max_examples=100)
def test_any_message_is_one_line_that_can_be_parsed(text: str, extra: dict[str, str]) -> None:
    record = _record(text)
    for key, value in extra.items():
        record.__dict__.setdefault(key, value)
    _fields(record)


@pytest.mark.parametrize("filler", ["x", "\n", "é", "\ud800"])
def test_line_stays_below_the_agent_s_buffer(filler: str) -> None:
    extra = {f"field{i}": filler * 9_000 for i in range(20)}
    line = JsonLinesFormatter().format(_record(filler * 100_000, **extra))
    assert len(line.encode("utf-8", "backslashreplace")) < 65_536
    assert json.loads(line)["fields_left_out"] == 20


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def _handler(fd: int) -> NonBlockingHandler:
    handler = NonBlockingHandler(fd)
    handler.setFormatter(JsonLinesFormatter())
    return handler


def _read_lines(fd: int) -> list[dict[str, Any]]:
    os.set_blocking(fd, False)
    data = b""
    while True:
        try:
            chunk = os.read(fd, 1 << 20)
        except BlockingIOError:
            break
        if not chunk:
            break
        data += chunk
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def test_record_is_one_line(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = _handler(writer)
    handler.handle(_record("one"))
    handler.handle(_record("two\nlines"))
    assert [line["@message"] for line in _read_lines(reader)] == ["one", "two\nlines"]
    handler.close()


def test_shared_descriptor_stays_blocking(pipe: tuple[int, int]) -> None:
    _, writer = pipe
    _handler(writer).close()
    assert os.get_blocking(writer)


def test_nobody_reading_is_no_error(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = _handler(writer)
    os.close(reader)
    for _ in range(3):
        handler.handle(_record())
    assert handler.dropped == 3
    handler.close()


def test_handler_can_be_made_when_nobody_reads_any_more(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    handler = _handler(writer)
    handler.handle(_record())
    assert handler.dropped == 1
    handler.close()


@pytest.mark.parametrize("length", [10, 3_900])
def test_full_pipe_drops_lines_and_tells_how_many(pipe: tuple[int, int], length: int) -> None:
    reader, writer = pipe
    handler = _handler(writer)
    sent = 0
    while not handler.dropped:
        handler.handle(_record("x" * length + str(sent)))
        sent += 1
    handler.handle(_record("dropped too"))
    data = os.read(reader, 1 << 20)
    handler.handle(_record("after"))
    lines = [json.loads(line) for line in (data + os.read(reader, 1 << 20)).splitlines()]
    told = [line["count"] for line in lines if "count" in line]
    shown = [line for line in lines if line["@message"].startswith("x")]
    assert told == [2]
    assert len(shown) == sent - 1
    assert lines[-1]["@message"] == "after"
    assert handler.dropped == 0
    handler.close()


def test_line_larger_than_the_room_in_the_pipe_is_completed_later(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = _handler(writer)
    while not handler._unsent and not handler.dropped:
        handler.handle(_record("y", **{f"f{i}": "z" * 3_900 for i in range(10)}))
    assert handler._unsent
    os.set_blocking(reader, False)
    first = os.read(reader, 1 << 20)
    handler.handle(_record("after"))
    lines = [json.loads(line) for line in (first + os.read(reader, 1 << 20)).splitlines()]
    assert lines[-1]["@message"] == "after"
    handler.close()


def test_full_socket_does_not_block_either() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handler = _handler(ours.fileno())
        for _ in range(2_000):
            handler.handle(_record("x" * 1_000))
        assert handler.dropped
        assert ours.getblocking()
        handler.close()


def test_record_after_close_is_dropped(pipe: tuple[int, int]) -> None:
    handler = _handler(pipe[1])
    handler.close()
    handler.close()
    handler.handle(_record())
    assert handler.dropped == 1


def test_configured_process_logs_warnings_as_json(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    root = logging.getLogger()
    saved, level = list(root.handlers), root.level
    handler = plugin_log.configure(logging.INFO, fd=writer)
    try:
        logging.getLogger("qemu_node.test").info("seen", extra={"vm_id": "a"})
        logging.getLogger("qemu_node.test").debug("not seen")
        logging.getLogger("py.warnings").warning("old thing")
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = saved
        root.setLevel(level)
        handler.close()
    lines = _read_lines(reader)
    assert [line["@message"] for line in lines] == ["seen", "old thing"]
    assert lines[0]["vm_id"] == "a"
