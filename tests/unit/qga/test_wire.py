import contextlib
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.errors import GuestAgentError
from qemu_node.qga.replies import Nothing, RawExecStatus, RawInterface
from qemu_node.qga.wire import (
    EXEC_LINE_MAX_BYTES,
    LINE_MAX_BYTES,
    OUTPUT_MAX_BYTES,
    AgentRefusedError,
    LineReader,
    decode_reply,
    encode_request,
    encode_sync,
    is_sync_reply,
)


def lines_of(chunks: Sequence[bytes], *, max_bytes: int = 50, skip: bool = False) -> list[bytes]:
    """Return what a reader makes of `chunks`, with `b"too long"` for its error."""
    reader = LineReader()
    if skip:
        reader.reset()
    found = []
    try:
        for chunk in chunks:
            reader.feed(chunk)
            while (line := reader.next_line(max_bytes)) is not None:
                found.append(line)
    except GuestAgentError:
        found.append(b"too long")
    return found


def test_request_is_one_line_without_an_id() -> None:
    assert encode_request("guest-ping", {}) == b'{"execute":"guest-ping"}\n'
    line = encode_request("guest-exec", {"path": "a\nb"})
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"execute": "guest-exec", "arguments": {"path": "a\nb"}}


def test_argument_that_is_no_text_is_an_error() -> None:
    with pytest.raises(GuestAgentError, match="guest-exec is not valid text"):
        encode_request("guest-exec", {"path": "\udcff"})


def test_sync_request_begins_with_the_sentinel() -> None:
    assert encode_sync(7).startswith(b'\xff{"execute":"guest-sync-delimited"')


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"return": 7}', True),
        (b'{"return": 8}', False),
        (b'{"return": 7.0}', False),
        (b'{"return": true}', False),
        (b'{"return": {}}', False),
        (b'{"error": {"desc": "x"}}', False),
        (b'{"return": 7, "id": 1}', False),
        (b"7", False),
        (b"", False),
    ],
)
def test_only_the_right_id_is_a_sync_reply(line: bytes, *, expected: bool) -> None:
    assert is_sync_reply(line, 7) is expected


def test_value_is_read_as_its_kind_and_new_members_are_ignored() -> None:
    line = b'{"return": [{"name": "eth0", "new": [{}], "ip-addresses": []}], "x": {"y": 1}}'
    assert decode_reply(line, "guest-network-get-interfaces", list[RawInterface]) == [
        RawInterface(name="eth0")
    ]


def test_reply_with_an_id_is_somebody_elses() -> None:
    assert decode_reply(b'{"return": {}, "id": "libvirt-1"}', "guest-ping", Nothing) is None


def test_error_carries_the_guests_words_made_safe() -> None:
    line = json.dumps({"error": {"desc": "\x1b]0;x\x07no\u202e" + "y" * 10_000}}).encode()
    with pytest.raises(AgentRefusedError, match=r"^guest-exec failed in the guest: ") as caught:
        decode_reply(line, "guest-exec", Nothing)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[]", "malformed"),
        (b'"text"', "malformed"),
        (b"5", "malformed"),
        (b"null", "malformed"),
        (b"{}", "neither a value nor an error"),
        (b'{"return": 5}', "malformed"),
        (b'{"return": null}', "malformed"),
        (b'{"return": {}', "malformed"),
        (b'{"return": {}} {}', "malformed"),
        (b'{"error": "x"}', "malformed"),
        (b'{"error": {"desc": 5}}', "malformed"),
        (b'{"return": "\\ud800"}', "malformed"),
        (b"[" * 40 + b"]" * 40, "malformed"),
        (b'{"return": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed"),
        (b'{"return": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "malformed"),
        (b'{"return": {"a": [' + b"{}," * (LINE_MAX_BYTES // 3) + b"{}]}}", "too long"),
    ],
)
def test_what_is_no_reply_is_an_error(line: bytes, message: str) -> None:
    with pytest.raises(GuestAgentError, match=message) as caught:
        decode_reply(line, "guest-ping", Nothing)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "line",
    [
        b'{"return": {"a": "\xff\xfe"}}',
        b'{"return": 5, "return": {}}',
        b'{"return": {"a": ' + b"9" * 100_000 + b"}}",
        b'{"return": {"a": "' + b"[" * 10_000 + b'"}}',
        b'{"return": {"a": "\\\\", "b": "\\"' + b"[{" * 100 + b'"}}',
        b'{"return": {"a": [' + b"[]," * 10_000 + b"[]]}}",
    ],
)
def test_odd_but_honest_json_is_tolerated(line: bytes) -> None:
    assert decode_reply(line, "guest-ping", Nothing) == Nothing()


def test_huge_integer_is_no_exit_code() -> None:
    line = b'{"return": {"exited": true, "exitcode": ' + b"9" * 5000 + b"}}"
    with pytest.raises(GuestAgentError, match="malformed"):
        decode_reply(line, "guest-exec-status", RawExecStatus)


def test_longest_honest_exec_reply_fits_its_limit() -> None:
    base64_bytes = -(-OUTPUT_MAX_BYTES // 3) * 4
    rest = len(
        b'{"return": {"out-data": "", "err-data": "", "exitcode": -2147483648, '
        b'"out-truncated": false, "err-truncated": false, "exited": true}}'
    )
    assert 2 * base64_bytes + rest < EXEC_LINE_MAX_BYTES
    assert LINE_MAX_BYTES < EXEC_LINE_MAX_BYTES


def test_reader_skips_to_the_sentinel_and_takes_lines_from_there() -> None:
    assert lines_of([b'old}\n{"x":', b"1}\n\xff", b"new\nnext\n"], skip=True) == [b"new", b"next"]


def test_sentinel_in_a_line_begins_it_anew() -> None:
    assert lines_of([b"a\nto", b"rn\xffwhole\n"]) == [b"a", b"whole"]


def test_empty_lines_are_nothing() -> None:
    assert lines_of([b"\n\r\n \na\r\n"]) == [b"a"]


def test_too_long_line_is_an_error_whether_it_has_an_end_or_not() -> None:
    assert lines_of([b"x" * 51]) == [b"too long"]
    assert lines_of([b"x" * 51 + b"\n"]) == [b"too long"]
    assert lines_of([b"x" * 50 + b"\n"]) == [b"x" * 50]


@st.composite
def chunked(draw: Any) -> tuple[bytes, list[bytes]]:
    data: bytes = draw(
        st.lists(
            st.sampled_from([b"\n", b"\xff", b"{}", b'{"return": 7}', b"x" * 30, b" ", b"\r"])
            | st.binary(max_size=5),
            max_size=20,
        ).map(b"".join)
    )
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=10)))
    edges = [0, *cuts, len(data)]
    return data, [data[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=500)
@given(chunked(), st.booleans())
def test_lines_do_not_depend_on_chunks(pair: tuple[bytes, list[bytes]], skip: bool) -> None:
    data, chunks = pair
    whole = lines_of([data], skip=skip)
    assert lines_of(chunks, skip=skip) == whole
    assert lines_of([data[i : i + 1] for i in range(len(data))], skip=skip) == whole


pieces = st.sampled_from(
    [b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b"return", b'"return":', b'"error":', b"1e9"]
)


@settings(max_examples=500)
@given(st.binary(max_size=200) | st.lists(pieces, max_size=100).map(b"".join))
def test_no_line_raises_anything_but_a_guest_agent_error(line: bytes) -> None:
    is_sync_reply(line, 1)
    for kind in (Nothing, RawExecStatus, list[RawInterface]):
        with contextlib.suppress(GuestAgentError):
            decode_reply(line, "guest-ping", kind)
