"""An error as a client of the API sees it: an HTTP status, a code, one line, a hint.

Owns how an error of any part of the package becomes one. What is a bug keeps its traceback in the
log and says nothing about itself to the client.
"""

import logging

import msgspec

from qemu_node.errors import (
    GuestAgentError,
    HostError,
    JobError,
    MissingPartError,
    NodeError,
    QmpError,
    VMNotFoundError,
)

log = logging.getLogger(__name__)


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON of an error."""

    error: str
    """For programs: a word such as `forbidden`."""
    message: str
    """For people: one line."""
    hint: str = ""
    """What to do about it."""


class Problem(NodeError):
    """The request is answered with an error."""

    def __init__(self, status: int, error: str, message: str, *, hint: str | None = None) -> None:
        """Answer with `status` of HTTP, the code `error`, one line for people, and what to do."""
        super().__init__(message, hint=hint)
        self.status = status
        self.error = error

    def body(self) -> ProblemBody:
        """Return what the client is told."""
        message = " ".join(str(self).split())
        return ProblemBody(error=self.error, message=message, hint=self.hint or "")


def bad_request(message: str, *, hint: str | None = None) -> Problem:
    """Return the error of a request that makes no sense."""
    return Problem(400, "bad-request", message, hint=hint)


def not_logged_in(message: str = "nobody is logged in") -> Problem:
    """Return the error of a request without a valid session or token."""
    return Problem(
        401, "not-logged-in", message, hint="log in; for programs GET /api/v1/login says how"
    )


def forbidden(message: str, *, hint: str | None = None) -> Problem:
    """Return the error of a request that this user may not make."""
    return Problem(403, "forbidden", message, hint=hint)


def unreachable(exc: NodeError) -> Problem:
    """Return the error of a request that cannot be judged because Nomad does not answer."""
    return Problem(503, "nomad-unreachable", str(exc), hint=exc.hint)


def no_such_vm(vm_id: str) -> Problem:
    """Return the error for a VM that is not there, or that this user may not see: the same one."""
    return Problem(404, "no-such-vm", f"no VM {vm_id!r} that you may see on this node")


_STATUS_OF: tuple[tuple[type[NodeError], int, str], ...] = (
    (VMNotFoundError, 404, "no-such-vm"),
    (JobError, 409, "job-does-not-allow-it"),
    (GuestAgentError, 504, "guest-agent"),
    (QmpError, 504, "qemu"),
    (MissingPartError, 503, "missing-part"),
    (HostError, 503, "node"),
)


def problem_of(exc: Exception) -> Problem:
    """Return what the client is told of `exc`; a bug is logged here."""
    match exc:
        case Problem():
            return exc
        case NodeError():
            for kind, status, error in _STATUS_OF:
                if isinstance(exc, kind):
                    return Problem(status, error, str(exc), hint=exc.hint)
            return Problem(500, "node", str(exc), hint=exc.hint)
        case _:
            log.error("request failed", exc_info=exc)
            return Problem(500, "bug", "the daemon failed", hint="its log says why")
