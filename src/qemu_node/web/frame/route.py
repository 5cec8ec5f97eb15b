"""One route of the console, and what its handler is given.

Owns the rule that every route says who may use it: there is no way to serve one that does not.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from aiohttp import web

from qemu_node.web.access.acl.rights import Right
from qemu_node.web.access.session.grant import Grant
from qemu_node.web.fleet.model import VMView

VM_PATH = "/api/v1/vms/{vm_id}"
"""What the paths of all routes that concern one VM begin with."""


class Guard(Protocol):
    """Who may do what."""

    async def grant(
        self, request: web.Request, right: Right, vm: VMView | None, *, is_change: bool
    ) -> Grant:
        """Return the right of whoever sent `request`.

        Args:
            request: With a session's cookie or a token in its header.
            right: What it takes.
            vm: Which VM; None: the node, or what is listed is chosen by `visible`.
            is_change: Whether a page of somebody else must not be able to make the browser send it.

        Raises:
            Problem: 401, 403, or 404 for a VM that this user may not see.
        """
        ...


class StreamGuard(Protocol):
    """Ends with their sessions what goes on after a request: streams, pastes."""

    def stream(self, grant: Grant) -> AbstractAsyncContextManager[None]:
        """Cancel the block when the session of `grant` ends, and leave it without an error.

        Raises:
            Problem: the session has too many; before the block.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A whole number in the query of a route's path."""

    name: str
    summary: str
    """One sentence for the document."""
    least: int
    most: int
    default: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, after everything about it was checked."""

    request: web.Request
    grant: Grant | None
    """None: the route is open."""
    vm: VMView | None
    """Of the path."""
    body: Any
    """Of the route's type; None: it takes none."""
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Of the route's query, by name; what was not given has its default."""

    @property
    def the_grant(self) -> Grant:
        """What it was found to be allowed; for a route with a right."""
        assert self.grant is not None
        return self.grant

    @property
    def the_vm(self) -> VMView:
        """The VM of a route below `VM_PATH`."""
        assert self.vm is not None
        return self.vm


Handler = Callable[[Call], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method and a path, who may use it, and what it does."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    right: Right | None
    """None: open to everybody, also before a login; the words of an open route are few."""
    handler: Handler
    summary: str
    """One sentence for the document."""
    body: type | None = None
    """The type of its JSON body."""
    answer: type | None = None
    """The type of its JSON; None: no content, or what the handler makes itself."""
    content_type: str = "application/json"
    query: tuple[Query, ...] = ()

    @property
    def is_of_vm(self) -> bool:
        """Whether it concerns one VM."""
        return self.path.startswith(VM_PATH)
