"""The guest agent's commands that this package uses, one method for each.

Owns the commands' arguments, waiting for a program that runs in the guest, and ending one that
nobody waits for any more. Does not own who may ask: callers of `run` must check the job's
`allow_exec`.

Every call takes its own turn at the socket, so that a health check does not wait for a long
command. It has one deadline for all that it does.
"""

import asyncio
import base64
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from qemu_node.errors import GuestAgentError
from qemu_node.qga import replies
from qemu_node.qga.agentsession import AgentSession, AgentTimeoutError
from qemu_node.qga.replies import (
    AgentInfo,
    ExecResult,
    GuestFilesystem,
    GuestInterface,
    GuestLoad,
    GuestUser,
    OsInfo,
)
from qemu_node.qga.wire import EXEC_LINE_MAX_BYTES, LINE_MAX_BYTES, AgentRefusedError
from qemu_node.text import printable

log = logging.getLogger(__name__)

T = TypeVar("T")

INPUT_MAX_BYTES = 16 << 20
"""Longest input of a program in the guest; its output can be as long."""

_TIMEOUT_S = 5.0
_REFUSAL_WAIT_S = 2.0
_POLL_FIRST_S = 0.1
_POLL_MAX_S = 1.0
_TURN_MAX_S = 30.0
"""Longest time that `run` keeps others from the agent: a reply may be lost in the guest."""
_END_TIMEOUT_S = 5.0

# The agent has no command that ends a program. The script ends parents first, so that no shell
# runs its next line. Without CONFIG_PROC_CHILDREN in the guest's kernel it ends only the program
# itself.
_END_SCRIPT = """
end() {
    set -- "$1" $(cat /proc/"$1"/task/*/children 2>/dev/null)
    kill -TERM "$1"
    shift
    for child; do end "$child"; done
}
end "$1"
"""


class CommandStartError(AgentRefusedError):
    """The guest could not start a program; `is_missing`: it has no such program."""

    def __init__(self, refusal: AgentRefusedError) -> None:
        super().__init__(str(refusal))
        # The guest's words, of glib or of its Windows: only an exit status depends on them.
        self.is_missing = "No such file" in str(refusal)


class CommandTimeoutError(AgentTimeoutError):
    """A program did not end in time; it may still run in the guest."""


class GuestAgent:
    """The agent of one VM. Keeps nothing open between calls. Several tasks may use it.

    Every method raises GuestAgentError if the agent gives no usable answer in time. That does not
    mean that the guest is unhealthy.
    """

    def __init__(self, socket: Path, lock: Path) -> None:
        self._socket = socket
        self._lock = lock

    async def ping(self, timeout_s: float = _TIMEOUT_S) -> None:
        """Return if the agent answers."""
        await self._ask("guest-ping", replies.Nothing, timeout_s)

    async def info(self, timeout_s: float = _TIMEOUT_S) -> AgentInfo:
        """Return the agent's version and its enabled commands."""
        return replies.agent_info(await self._ask("guest-info", replies.RawInfo, timeout_s))

    async def osinfo(self, timeout_s: float = _TIMEOUT_S) -> OsInfo:
        """Return the guest's operating system."""
        return replies.os_info(await self._ask("guest-get-osinfo", replies.RawOsInfo, timeout_s))

    async def host_name(self, timeout_s: float = _TIMEOUT_S) -> str:
        """Return the guest's host name."""
        raw = await self._ask("guest-get-host-name", replies.RawHostName, timeout_s)
        return printable(raw.host_name)

    async def network_interfaces(self, timeout_s: float = _TIMEOUT_S) -> list[GuestInterface]:
        """Return the guest's network interfaces with their addresses."""
        raw = await self._ask("guest-network-get-interfaces", list[replies.RawInterface], timeout_s)
        return replies.interfaces(raw)

    async def network_identity(
        self, timeout_s: float = _TIMEOUT_S
    ) -> tuple[str, list[GuestInterface]]:
        """Return the guest's host name and its network interfaces, in one session.

        Connecting, locking and synchronising cost more than a command.
        """
        async with self._session(timeout_s) as session:
            interfaces = await session.execute(
                "guest-network-get-interfaces", kind=list[replies.RawInterface]
            )
            name = await session.execute("guest-get-host-name", kind=replies.RawHostName)
        return printable(name.host_name), replies.interfaces(interfaces)

    async def filesystems(self, timeout_s: float = _TIMEOUT_S) -> list[GuestFilesystem]:
        """Return what the guest has mounted."""
        raw = await self._ask("guest-get-fsinfo", list[replies.RawFilesystem], timeout_s)
        return replies.filesystems(raw)

    async def users(self, timeout_s: float = _TIMEOUT_S) -> list[GuestUser]:
        """Return who is logged in to the guest."""
        return replies.users(await self._ask("guest-get-users", list[replies.RawUser], timeout_s))

    async def load(self, timeout_s: float = _TIMEOUT_S) -> GuestLoad:
        """Return the guest's load; agents before QEMU 9.1 do not know it."""
        return replies.load(await self._ask("guest-get-load", replies.RawLoad, timeout_s))

    async def shutdown(
        self,
        mode: Literal["powerdown", "halt", "reboot"] = "powerdown",
        *,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        """Return once the agent has got the request. The guest may still not shut down.

        An agent that shuts down sends no answer. So this returns after two seconds without one, or
        after `timeout_s` if that is shorter, or when QEMU exits.

        Raises:
            GuestAgentError: no agent got the request, or it answered that it cannot.
        """
        async with self._session(timeout_s) as session:
            await session.send("guest-shutdown", {"mode": mode})
            wait_s = min(_REFUSAL_WAIT_S, session.left_s)
            refusal = await session.refusal("guest-shutdown", wait_s)
        if refusal is not None:
            raise refusal

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        input: bytes = b"",  # noqa: A002 - as subprocess.run calls it
        env: Sequence[str] = (),
        reply_max_bytes: int = EXEC_LINE_MAX_BYTES,
    ) -> ExecResult:
        """Run a program in the guest, without a shell, and return how it ended.

        If its time is up, or the call is cancelled while the program runs, the guest is told to
        end it (SIGTERM, on Windows taskkill). This waits at most 5 s for that.

        Args:
            argv: The program, looked up in the agent's PATH, and its arguments.
            timeout_s: Limit for the whole call; for the agent's first answer at most 5 s.
            input: The program's stdin.
            env: `NAME=value` entries that replace the agent's environment; empty to keep it.
            reply_max_bytes: Longest reply with the output, which is in base64 there.

        Raises:
            CommandTimeoutError: the program did not end in time; it may still run in the guest.
            CommandStartError: the guest could not start it; the message has the guest's reason.
            AgentTimeoutError: the agent did not answer; probably nothing was run.
            GuestAgentError: the agent may not run programs, or lost track of the program.
        """
        if not argv or len(input) > INPUT_MAX_BYTES:
            what = "no command is given" if not argv else "its input is longer than 16 MiB"
            raise GuestAgentError(f"nothing was run in the guest: {what}")
        deadline = asyncio.get_running_loop().time() + timeout_s
        pid = await self._start(argv, input, env, timeout_s)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._wait(pid, reply_max_bytes)
        except TimeoutError as exc:
            await self._end(pid)
            raise CommandTimeoutError(
                f"the command did not end within {timeout_s:g} s; "
                f"it may still be running in the guest as process {pid}"
            ) from exc
        except asyncio.CancelledError:
            await self._end(pid)
            raise

    async def _start(
        self, argv: Sequence[str], stdin: bytes, env: Sequence[str], timeout_s: float
    ) -> int:
        """Start a program; return its pid in the guest."""
        arguments: dict[str, object] = {
            "path": argv[0],
            "arg": list(argv[1:]),
            "capture-output": True,
        }
        if env:
            arguments["env"] = list(env)
        if stdin:
            arguments["input-data"] = base64.b64encode(stdin).decode("ascii")
        turn_s = min(timeout_s, _TURN_MAX_S)
        async with self._session(min(timeout_s, _TIMEOUT_S)) as session:
            raw = await session.execute("guest-info", kind=replies.RawInfo)
            if "guest-exec" not in replies.agent_info(raw).enabled:
                raise GuestAgentError(
                    "the guest agent has guest-exec disabled",
                    hint="see allow-rpcs and block-rpcs in the guest's qemu-ga.conf",
                )
            try:
                started = await session.execute(
                    "guest-exec", arguments, kind=replies.RawExec, timeout_s=turn_s
                )
            except AgentRefusedError as exc:
                raise CommandStartError(exc) from exc
            return started.pid

    async def _end(self, pid: int) -> None:
        """End process `pid` and its children, if the agent can. Never raises."""
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                system = await self.osinfo()
                if system.id == "mswindows":
                    argv = ["taskkill.exe", "/PID", str(pid), "/T", "/F"]
                else:
                    argv = ["/bin/sh", "-c", _END_SCRIPT, "sh", str(pid)]
                await self._wait(await self._start(argv, b"", (), _END_TIMEOUT_S), LINE_MAX_BYTES)
                # The agent keeps a program's output until it is asked for.
                await self._wait(pid, LINE_MAX_BYTES)
        except (GuestAgentError, TimeoutError) as exc:
            log.info("command in the guest not ended", extra={"pid": pid, "error": str(exc)})

    async def _wait(self, pid: int, max_bytes: int) -> ExecResult:
        """Wait until process `pid` has ended; return how. There is no time limit."""
        pause_s = _POLL_FIRST_S
        while True:
            try:
                async with self._session(_TURN_MAX_S) as session:
                    status = await session.execute(
                        "guest-exec-status",
                        {"pid": pid},
                        kind=replies.RawExecStatus,
                        max_bytes=max_bytes,
                    )
            except AgentTimeoutError as exc:
                log.info("guest agent is silent", extra={"pid": pid, "error": str(exc)})
            except GuestAgentError as exc:
                raise GuestAgentError(
                    f"lost track of the command, process {pid} in the guest: {exc}"
                ) from exc
            else:
                if status.exited:
                    return replies.exec_result(status)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _POLL_MAX_S)

    async def _ask(
        self,
        command: str,
        kind: type[T],
        timeout_s: float,
        arguments: Mapping[str, object] | None = None,
    ) -> T:
        async with self._session(timeout_s) as session:
            return await session.execute(command, arguments, kind=kind)

    @contextlib.asynccontextmanager
    async def _session(self, timeout_s: float) -> AsyncGenerator[AgentSession]:
        async with AgentSession.open(self._socket, self._lock, timeout_s=timeout_s) as session:
            yield session
