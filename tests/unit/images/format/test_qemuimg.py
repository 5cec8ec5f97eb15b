import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import MissingPartError, NodeError
from qemu_node.host.process.command import Completed
from qemu_node.images.errors import UnsafeImageError
from qemu_node.images.format.qemuimg import judge_check


def said(stdout: bytes | dict[str, object] = b"", stderr: str = "", returncode: int = 0) -> None:
    words = stdout if isinstance(stdout, bytes) else json.dumps(stdout).encode()
    judge_check(Completed(returncode=returncode, stdout=words, stderr=stderr.encode()))


def test_an_image_in_order_and_one_that_only_wastes_clusters_are_fine() -> None:
    said({"check-errors": 0, "format": "qcow2", "filename": "x", "total-clusters": 16})
    said({"check-errors": 0, "leaks": 7}, returncode=3)


@pytest.mark.parametrize(
    ("found", "returncode"),
    [({"check-errors": 0, "corruptions": 3}, 2), ({"check-errors": 2}, 1)],
)
def test_corruptions_and_errors_are_refused(found: dict[str, object], returncode: int) -> None:
    with pytest.raises(UnsafeImageError, match="corrupt"):
        said(found, returncode=returncode)


def test_an_image_that_qemu_img_cannot_open_is_refused_with_its_reason() -> None:
    name = '{"driver": "qcow2", "file": {"filename": "/input"}}'
    with pytest.raises(UnsafeImageError) as caught:
        said(stderr=f"qemu-img: Could not open 'json:{name}': Image is \x1b[31mnot\n a qcow2")
    assert str(caught.value) == "qemu-img cannot check it: Image is ?[31mnot a qcow2"


def test_a_check_that_the_kernel_has_ended_says_nothing_good_of_the_image() -> None:
    with pytest.raises(UnsafeImageError, match="SIGKILL"):
        said({"check-errors": 0}, returncode=-9)


@pytest.mark.parametrize("returncode", [126, 127])
def test_a_qemu_img_that_does_not_run_is_the_hosts_fault(returncode: int) -> None:
    with pytest.raises(MissingPartError, match="libz"):
        said(stderr="error while loading libz.so", returncode=returncode)


_OUTPUT = st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.dictionaries(
        st.sampled_from(["check-errors", "corruptions", "leaks", "x"]), inner, max_size=4
    ),
).map(lambda value: json.dumps(value).encode())


@given(_OUTPUT, st.binary(max_size=400), st.integers(-64, 128))
def test_whatever_it_prints_is_an_answer_on_one_line(
    stdout: bytes, stderr: bytes, returncode: int
) -> None:
    message = ""
    try:
        judge_check(Completed(returncode=returncode, stdout=stdout, stderr=stderr))
    except NodeError as exc:
        message = str(exc)
    assert message.isprintable()
    assert len(message) < 400
