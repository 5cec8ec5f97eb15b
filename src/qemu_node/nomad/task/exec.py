"""`nomad alloc exec` and script checks: a command in the guest, through its agent.

The guest agent takes a command's input before it starts and returns its output after it has ended.
So all input is collected first, and there is no terminal: for that there is the serial console.

Two facts about Nomad's client (2.0.6-dev, as observed). It puts an RPC's error into a WebSocket
close frame, which holds 125 bytes; a longer error shows as `unexpected EOF`. So a refusal is
written to stderr, with an exit code. And a user's Ctrl-C reaches the driver only when the client
fails to deliver the next message. So a message is sent every two seconds.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

from qemu_node.errors import GuestAgentError, JobError, NodeError
from qemu_node.host.concurrency.cancellation import race
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.nomad.plugin.grpcstatus import TaskNotFoundError
from qemu_node.nomad.proto import driver_pb2
from qemu_node.qga.agent import CommandStartError
from qemu_node.qga.agentsession import AgentTimeoutError
from qemu_node.qga.replies import ExecResult
from qemu_node.vm.life.machine import VM

INPUT_MAX_BYTES = 4 << 20
"""Longest stdin of a command; it is sent in one line of JSON."""

CANNOT_RUN = 126
NOT_FOUND = 127
"""Exit codes of a command that was not run, as in shells."""

_CHUNK_BYTES = 64 << 10
_UNLIMITED_S = 24 * 3600.0
"""Time limit of a command without a timeout of its own."""

_SIGN_OF_LIFE_S = 2.0

_Response = driver_pb2.ExecTaskStreamingResponse
_Operation = driver_pb2.ExecTaskStreamingIOOperation
_Setup = driver_pb2.ExecTaskStreamingRequest.Setup
_Requests = AsyncIterator[driver_pb2.ExecTaskStreamingRequest]


def check_allowed(vm: VM) -> None:
    """Raise unless the job allows commands in this guest.

    Raises:
        JobError: the job does not allow it.
    """
    if not vm.record.allow_exec:
        raise JobError(
            "exec is not allowed by this job",
            hint="set guest_agent { allow_exec = true } in the task's config",
        )


async def run_once(vm: VM, command: list[str], timeout_s: float) -> driver_pb2.ExecTaskResponse:
    """Run `command` and return what it printed. A `timeout_s` of 0 means no limit.

    Raises:
        JobError: the job does not allow it.
        GuestAgentError: the agent did not answer, or has no such command.
    """
    check_allowed(vm)
    result = await vm.agent.run(command, timeout_s=timeout_s or _UNLIMITED_S)
    return driver_pb2.ExecTaskResponse(
        stdout=result.stdout, stderr=result.stderr, result=_exit_result(result)
    )


async def run_streaming(
    requests: _Requests, find_vm: Callable[[str], VM], tasks: TaskOwner
) -> AsyncIterator[_Response]:
    """Run the command that the first request names and yield its output and exit code.

    A command that cannot be run ends with the reason on stderr and exit code 126, or 127 if the
    guest has no such program. When the caller goes away, one of `tasks` ends the command.

    Raises:
        TaskNotFoundError: `find_vm` does not know the task.
    """
    first = await anext(aiter(requests), None)
    setup = _Setup() if first is None else first.setup
    try:
        vm = find_vm(setup.task_id)
    except TaskNotFoundError:
        raise
    except NodeError as exc:
        for response in _refusal(exc, setup):
            yield response
        return
    command = _Command(vm, setup, requests)
    run = tasks.start(command.run(), name=f"exec in {command.vm.record.vm_id}")
    try:
        while not run.done():
            await asyncio.wait({run}, timeout=_SIGN_OF_LIFE_S)
            if not run.done():
                yield command.sign_of_life()
    finally:
        run.cancel()
    outcome = run.result()
    answer = _output(outcome) if isinstance(outcome, ExecResult) else _refusal(outcome, setup)
    for response in answer:
        yield response


class _Command:
    """One command and its input."""

    def __init__(self, vm: VM, setup: _Setup, requests: _Requests) -> None:
        self.vm = vm
        self._setup = setup
        self._requests = requests
        self._waits_for: str | None = None

    async def run(self) -> ExecResult | NodeError:
        """Return how the command ended, or why it was not run. It ends with the VM, too."""
        try:
            check_allowed(self.vm)
            if self._setup.tty:
                raise JobError(
                    "the guest agent offers no terminal",
                    hint="use `nomad alloc exec -i=false -t=false`, or `qemu-node vm console` on "
                    "the node",
                )
            _, result = await race(self._run(), self._until_ended())
        except NodeError as exc:
            return exc
        return result

    async def _run(self) -> ExecResult:
        self._waits_for = "the guest agent"
        try:
            await self.vm.agent.ping()
        except AgentTimeoutError as exc:
            raise GuestAgentError(
                str(exc), hint="is qemu-guest-agent installed and running in the guest?"
            ) from exc
        self._waits_for = "the end of stdin to start the command; -i=false gives it no input"
        stdin = await self._collect_input()
        self._waits_for = None
        command = list(self._setup.command)
        return await self.vm.agent.run(command, input=stdin, timeout_s=_UNLIMITED_S)

    async def _until_ended(self) -> ExecResult:
        """Raise once the VM has ended."""
        await self.vm.wait()
        raise GuestAgentError("the VM ended before the command did")

    async def _collect_input(self) -> bytes:
        """Return all of stdin. Ignore empty messages (heartbeats) and sizes (for terminals)."""
        stdin = bytearray()
        async for request in self._requests:
            stdin += request.stdin.data
            if len(stdin) > INPUT_MAX_BYTES:
                raise JobError(
                    f"more than {INPUT_MAX_BYTES >> 20} MiB on stdin",
                    hint="copy files into the guest over its network",
                )
            if request.stdin.close:
                break
        return bytes(stdin)

    def sign_of_life(self) -> _Response:
        """Return a message that says what the command waits for, each once; else an empty one."""
        awaited, self._waits_for = self._waits_for, None
        if awaited is None:
            return _Response()
        return _words(f"waiting for {awaited}", self._setup)


def _refusal(error: NodeError, setup: _Setup) -> Iterator[_Response]:
    """Yield the messages that carry the reason why a command was not run."""
    yield _words(error.explain(), setup)
    is_missing = isinstance(error, CommandStartError) and error.is_missing
    code = NOT_FOUND if is_missing else CANNOT_RUN
    yield _Response(exited=True, result=driver_pb2.ExitResult(exit_code=code))


def _words(text: str, setup: _Setup) -> _Response:
    # The client's terminal is in raw mode.
    end = "\r\n" if setup.tty else "\n"
    return _Response(stderr=_Operation(data=f"vm: {text}{end}".encode()))


def _output(result: ExecResult) -> Iterator[_Response]:
    """Yield the messages with the output and exit code of a finished command."""
    stderr = result.stderr
    if result.truncated:
        stderr += b"\n[output cut: the guest agent keeps 16 MiB]\n"
    for start in range(0, len(result.stdout), _CHUNK_BYTES):
        yield _Response(stdout=_Operation(data=result.stdout[start : start + _CHUNK_BYTES]))
    for start in range(0, len(stderr), _CHUNK_BYTES):
        yield _Response(stderr=_Operation(data=stderr[start : start + _CHUNK_BYTES]))
    yield _Response(stdout=_Operation(close=True))
    yield _Response(stderr=_Operation(close=True))
    yield _Response(exited=True, result=_exit_result(result))


def _exit_result(result: ExecResult) -> driver_pb2.ExitResult:
    return driver_pb2.ExitResult(exit_code=result.exit_code, signal=result.signal or 0)
