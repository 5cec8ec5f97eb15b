"""What a client is told of an error."""

import logging

import pytest

from qemu_node.errors import GuestAgentError, HostError, NodeError, QmpError, VMNotFoundError
from qemu_node.web.http.problems import Problem, forbidden, problem_of


@pytest.mark.parametrize(
    ("exc", "status", "error"),
    [
        (forbidden("no"), 403, "forbidden"),
        (VMNotFoundError("no VM"), 404, "no-such-vm"),
        (GuestAgentError("silent"), 504, "guest-agent"),
        (QmpError("silent"), 504, "qemu"),
        (HostError("full"), 503, "node"),
        (NodeError("other"), 500, "node"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_has_a_status_and_a_code(exc: NodeError, status: int, error: str) -> None:
    problem = problem_of(exc)
    assert (problem.status, problem.error) == (status, error)


def test_the_hint_of_an_error_reaches_the_client() -> None:
    body = problem_of(HostError("the disk\nis full", hint="remove images")).body()
    assert (body.message, body.hint) == ("the disk is full", "remove images")


def test_a_bug_is_logged_and_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        problem = problem_of(KeyError("secret"))
    assert isinstance(problem, Problem)
    assert problem.status == 500
    assert "secret" not in str(problem.body())
    assert "secret" in caplog.text
