"""The error tree of the project.

Owns the root and the few classes that several layers tell apart. An error that only one room
raises is beside the code that raises it, and derives from one of these.

    NodeError                 root; `retry` says how Nomad should treat it
    ├── ConfigError           node.toml or a plugin option is wrong; the operator fixes it
    ├── JobError              the job asks for something invalid or not allowed; its author fixes it
    ├── MissingPartError      the host lacks a program, file or permission; `hint` says which
    ├── HostError             the host refused an operation (disk full, say); worth a retry
    ├── GuestAgentError       the guest agent gave no usable answer
    ├── QmpError              QEMU's control socket gave no usable answer
    ├── ImageError            an image is unusable or did not arrive
    └── VMNotFoundError       no such VM on this node
"""

from typing import ClassVar, Final

AS_ROOT: Final = "run this as root"
"""A hint, or the beginning of one; the command line adds what to type."""

AS_ROOT_OR_GROUP: Final = (
    f"{AS_ROOT}, or join the group: `sudo usermod -aG qemu-node $USER`, then log in again"
)


class NodeError(Exception):
    """Root of all errors that an operator or a job's author can do something about.

    `str(exc)` is one line, what `nomad alloc status` shows. `hint` says what to do about it.
    `retry` becomes Nomad's recoverable error: true if the same start may succeed later.
    """

    retry: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def explain(self) -> str:
        """Return the message with its hint, on one line."""
        message = " ".join(str(self).split())
        return f"{message} ({self.hint})" if self.hint else message


class ConfigError(NodeError):
    """The node's own configuration is wrong; nothing was started."""


class JobError(NodeError):
    """The job asks for something invalid, contradictory or not allowed on this node."""


class MissingPartError(NodeError):
    """The host lacks something a VM needs: a program, firmware, a permission."""


class HostError(NodeError):
    """The host refused an operation that may succeed later, such as a write to a full disk."""

    retry = True


class GuestAgentError(NodeError):
    """The guest agent did not answer or answered with an error. The guest may be in any state."""

    retry = True


class QmpError(NodeError):
    """QEMU did not answer on its control socket, or refused. Its process may still run."""

    retry = True


class ImageError(NodeError):
    """The image cannot be used. The cache still holds only complete, verified images."""


class VMNotFoundError(NodeError):
    """There is no such VM on this node."""
