import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.errors import HostError, ImageError, JobError, NodeError
from qemu_node.nomad.plugin import grpcstatus
from qemu_node.nomad.plugin.grpcstatus import TaskNotFoundError, UnsupportedError
from qemu_node.nomad.plugin.rpc import grpc
from qemu_node.nomad.proto.status_pb2 import Status

_CODES = grpc.StatusCode


@pytest.mark.parametrize(
    ("error", "recoverable"),
    [(JobError("no"), False), (ImageError("no"), False), (HostError("no"), True)],
)
def test_retry_of_an_error_decides_whether_nomad_may_restart(
    error: NodeError, *, recoverable: bool
) -> None:
    answer = grpcstatus.to_status(error)
    assert answer.code is _CODES.FAILED_PRECONDITION
    assert answer.text == "vm: no"
    back = grpcstatus.from_status(answer.code, answer.text, answer.details)
    assert back.recoverable is recoverable


def test_details_are_the_bytes_that_go_decodes() -> None:
    details = grpcstatus.encode_details(_CODES.FAILED_PRECONDITION, "x", recoverable=True)
    url = b"type.googleapis.com/hashicorp.nomad.plugins.shared.structs.RecoverableError"
    packed = b"\x0a" + bytes([len(url)]) + url + b"\x12\x02\x08\x01"
    assert details == b"\x08\x09\x12\x01x\x1a" + bytes([len(packed)]) + packed


def test_text_has_the_hint_and_stays_on_one_line() -> None:
    answer = grpcstatus.to_status(JobError("a\nb", hint="do c"))
    assert answer.text == "vm: a b (do c)"


def test_unknown_task_has_exactly_nomad_s_words() -> None:
    answer = grpcstatus.to_status(TaskNotFoundError())
    assert (answer.code, answer.text) == (_CODES.NOT_FOUND, "task not found for given id")
    assert answer.details is None


def test_unsupported_call_is_unimplemented() -> None:
    assert grpcstatus.to_status(UnsupportedError("no signals")).code is _CODES.UNIMPLEMENTED


def test_fault_of_ours_is_internal_and_not_recoverable() -> None:
    answer = grpcstatus.to_status(KeyError("x"))
    assert answer.code is _CODES.INTERNAL
    assert answer.details is None
    assert "KeyError" in answer.text


@given(st.text(max_size=3000))
@settings(max_examples=50)
def test_any_text_fits_into_a_header_block(text: str) -> None:
    answer = grpcstatus.to_status(HostError(text))
    assert answer.details is not None
    raw = answer.text.encode()
    escaped = sum(1 if 0x20 <= byte < 0x7F and byte != 0x25 else 3 for byte in raw)
    assert escaped + len(answer.details) * 4 / 3 < 7 * 1024
    assert Status.FromString(answer.details).message == answer.text


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_garbage_details_are_ignored(details: bytes) -> None:
    error = grpcstatus.from_status(_CODES.FAILED_PRECONDITION, "x", details)
    assert error.recoverable in (None, False, True)
    assert str(error) == "x"
