"""What a guest's agent is asked and told: commands with types, each a route of its own.

Owns which there are, and the bounds on a program's output. Does not own the agent's protocol
(`qga`), which makes what a guest says safe to show.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any
from weakref import WeakValueDictionary

import msgspec

from qemu_node.errors import JobError
from qemu_node.inventory.access import agent_of
from qemu_node.qga.agent import CommandStartError, GuestAgent
from qemu_node.qga.replies import GuestFilesystem, GuestInterface, GuestLoad, GuestUser, OsInfo
from qemu_node.text import PRINTABLE_MAX_CHARS
from qemu_node.units import KIB, MIB
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.api.vm.vmroutes import live_record
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.frame.route import VM_PATH, Call, Handler, Route
from qemu_node.web.http.problems import Problem

OUTPUT_MAX_CHARS = 256 * KIB
EXEC_MAX_S = 60.0
_ASK_MAX_S = 8.0
_ASKED_AT_ONCE_MAX = 32
"""On this node: each waits for a guest that may be silent. One of a VM."""

_EXEC_REPLY_MAX_BYTES = 4 * MIB
"""Of base64. Each reply is kept in memory, and a hostile guest sends the longest one."""
_PROGRAMS_MAX = 32
"""On this node, for all sessions: with a reply each, a quarter of the daemon's memory."""
_PROGRAMS_OF_A_VM_MAX = 4
"""One silent guest does not take all places."""

_Text = Annotated[str, msgspec.Meta(max_length=4096, pattern=r"^[^\u0000]*$")]


class HostNameView(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest calls itself."""

    host_name: Annotated[str, msgspec.Meta(max_length=PRINTABLE_MAX_CHARS)]


class InterfaceList(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's network interfaces, as it sees them: it may claim any address."""

    interfaces: list[GuestInterface]


class FilesystemList(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest has mounted."""

    filesystems: list[GuestFilesystem]


class UserList(msgspec.Struct, frozen=True, kw_only=True):
    """Who is logged in to a guest."""

    users: list[GuestUser]


class ExecBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program for the guest, which is run without a shell."""

    argv: Annotated[list[_Text], msgspec.Meta(min_length=1, max_length=256)]
    input: Annotated[str, msgspec.Meta(max_length=32 * KIB)] = ""
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=EXEC_MAX_S)] = 30.0


class ExecView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a program ended, and what it printed, with `�` for what is no UTF-8."""

    exit_code: int
    """128 + N if signal N ended it."""
    stdout: str = ""
    stderr: str = ""
    is_truncated: bool = False


class AgentRoutes:
    """The handlers."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._gate = asyncio.Semaphore(_ASKED_AT_ONCE_MAX)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._programs: Counter[str] = Counter()

    def routes(self) -> tuple[Route, ...]:
        """Return the table."""
        return (
            _ask("osinfo", self._reader(_osinfo), "its operating system", OsInfo),
            _ask("hostname", self._reader(_host_name), "its host name", HostNameView),
            _ask("interfaces", self._reader(_interfaces), "its interfaces", InterfaceList),
            _ask("filesystems", self._reader(_filesystems), "its file systems", FilesystemList),
            _ask("users", self._reader(_users), "who is logged in", UserList),
            _ask("load", self._reader(_load), "its load (agents since QEMU 9.1)", GuestLoad),
            Route(
                method="POST",
                path=f"{VM_PATH}/agent/exec",
                right=Right.AGENT_EXEC,
                handler=self._exec,
                summary="Run a program in the guest, if the VM's job allows it.",
                body=ExecBody,
                answer=ExecView,
            ),
        )

    def _reader(self, ask: Callable[[GuestAgent], Awaitable[object]]) -> Handler:
        async def handle(call: Call) -> object:
            record = live_record(self._fleet, call.the_vm)
            turn = self._turns.setdefault(record.vm_id, asyncio.Lock())
            try:
                async with asyncio.timeout(_ASK_MAX_S), turn, self._gate:
                    return await ask(agent_of(record))
            except TimeoutError as exc:
                raise Problem(
                    503, "busy", "too many guests are asked at this moment", hint="try again"
                ) from exc

        return handle

    async def _exec(self, call: Call) -> ExecView:
        record = live_record(self._fleet, call.the_vm)
        body: ExecBody = call.body
        if not record.allow_exec:
            raise JobError(
                f"the job of {record.vm_id} does not let programs run in its guest",
                hint="guest_agent { allow_exec = true } in the task's config allows it",
            )
        try:
            with self._place(record.vm_id):
                result = await agent_of(record).run(
                    body.argv,
                    timeout_s=body.timeout_s,
                    input=body.input.encode(),
                    reply_max_bytes=_EXEC_REPLY_MAX_BYTES,
                )
        except CommandStartError as exc:
            raise Problem(
                409, "not-started", str(exc), hint="the guest has no such program"
            ) from exc
        stdout, is_cut = _bounded(result.stdout)
        stderr, is_cut_too = _bounded(result.stderr)
        return ExecView(
            exit_code=result.exit_code,
            stdout=stdout,
            stderr=stderr,
            is_truncated=result.truncated or is_cut or is_cut_too,
        )

    @contextlib.contextmanager
    def _place(self, vm_id: str) -> Iterator[None]:
        """Count a program that runs.

        Raises:
            Problem: too many run already.
        """
        of_vm = self._programs[vm_id]
        if of_vm >= _PROGRAMS_OF_A_VM_MAX or self._programs.total() >= _PROGRAMS_MAX:
            raise Problem(
                503, "busy", "too many programs run in guests at this moment", hint="try again"
            )
        self._programs[vm_id] += 1
        try:
            yield
        finally:
            self._programs[vm_id] -= 1
            if not self._programs[vm_id]:
                del self._programs[vm_id]


def _bounded(output: bytes) -> tuple[str, bool]:
    """Return output as text, and whether something of it was left out."""
    is_cut = len(output) > OUTPUT_MAX_CHARS
    return output[:OUTPUT_MAX_CHARS].decode(errors="replace"), is_cut


async def _osinfo(agent: GuestAgent) -> OsInfo:
    return await agent.osinfo()


async def _host_name(agent: GuestAgent) -> HostNameView:
    return HostNameView(host_name=await agent.host_name())


async def _interfaces(agent: GuestAgent) -> InterfaceList:
    return InterfaceList(interfaces=await agent.network_interfaces())


async def _filesystems(agent: GuestAgent) -> FilesystemList:
    return FilesystemList(filesystems=await agent.filesystems())


async def _users(agent: GuestAgent) -> UserList:
    return UserList(users=await agent.users())


async def _load(agent: GuestAgent) -> GuestLoad:
    return await agent.load()


def _ask(name: str, handler: Handler, what: str, answer: type[Any]) -> Route:
    return Route(
        method="GET",
        path=f"{VM_PATH}/agent/{name}",
        right=Right.CONTROL,
        handler=handler,
        summary=f"Ask the guest's agent: {what}.",
        answer=answer,
    )
