"""`nomad alloc exec` and script checks: a command in the guest, through its agent.

The guest agent gives a command's output when it has ended and takes its input before it starts, so
input is collected to its end first, and there is no terminal: a terminal is the serial console.
"""

from collections.abc import AsyncIterator, Callable

from qemu_node.errors import GuestAgentError, JobError
from qemu_node.host.race import race
from qemu_node.nomad.proto import driver_pb2
from qemu_node.qga.replies import ExecResult
from qemu_node.vm.machine import VM

INPUT_MAX_BYTES = 4 << 20
"""What a command can be given on stdin; it travels in one line of JSON."""

_CHUNK_BYTES = 64 << 10
_UNLIMITED_S = 24 * 3600.0
"""Bound of a command without a timeout of its own."""

_Response = driver_pb2.ExecTaskStreamingResponse
_Operation = driver_pb2.ExecTaskStreamingIOOperation


class ExecError(JobError):
    """The command was not run."""


def check_allowed(vm: VM) -> None:
    """Raise unless the job lets commands be run in this guest.

    Raises:
        ExecError: the job does not allow it.
    """
    if not vm.record.allow_exec:
        raise ExecError(
            "exec is not allowed by this job",
            hint="set guest_agent { allow_exec = true } in the task's config",
        )


async def run_once(vm: VM, command: list[str], timeout_s: float) -> driver_pb2.ExecTaskResponse:
    """Run `command` and return what it printed; `timeout_s` 0 means no limit.

    Raises:
        ExecError: the job does not allow it.
        GuestAgentError: the agent did not answer, or has no such command.
    """
    check_allowed(vm)
    result = await vm.agent.run(command, timeout_s=timeout_s or _UNLIMITED_S)
    return driver_pb2.ExecTaskResponse(
        stdout=result.stdout, stderr=result.stderr, result=_exit_result(result)
    )


async def run_streaming(
    requests: AsyncIterator[driver_pb2.ExecTaskStreamingRequest],
    find_vm: Callable[[str], VM],
) -> AsyncIterator[_Response]:
    """Run the command that the first request names and yield its output and exit code.

    Raises:
        ExecError: the job does not allow it, a terminal is asked for, or the input is too large.
        GuestAgentError: the agent did not answer, or has no such command.
    """
    first = await anext(aiter(requests), None)
    if first is None or not first.HasField("setup"):
        raise ExecError("the first message names no command")
    vm = find_vm(first.setup.task_id)
    check_allowed(vm)
    if first.setup.tty:
        raise ExecError(
            "the guest agent offers no terminal",
            hint="use `nomad alloc exec -t=false`, or `qemu-node vm console` on the node",
        )
    result = await _run_until_gone(vm, list(first.setup.command), await _collect_input(requests))
    for response in _output(result):
        yield response


async def _run_until_gone(vm: VM, command: list[str], stdin: bytes) -> ExecResult:
    """Run the command; the guest's end ends the wait, too."""
    _, result = await race(
        vm.agent.run(command, input=stdin, timeout_s=_UNLIMITED_S), _until_ended(vm)
    )
    return result


async def _until_ended(vm: VM) -> ExecResult:
    """Raise once the VM has ended."""
    await vm.wait()
    raise GuestAgentError("the VM ended while the command ran")


async def _collect_input(
    requests: AsyncIterator[driver_pb2.ExecTaskStreamingRequest],
) -> bytes:
    """Return stdin up to its end; empty messages are heartbeats, sizes are for terminals."""
    stdin = bytearray()
    async for request in requests:
        stdin += request.stdin.data
        if len(stdin) > INPUT_MAX_BYTES:
            raise ExecError(
                f"more than {INPUT_MAX_BYTES >> 20} MiB on stdin",
                hint="copy files into the guest over its network",
            )
        if request.stdin.close:
            break
    return bytes(stdin)


def _output(result: ExecResult) -> list[_Response]:
    """Return the messages that carry a finished command."""
    stderr = result.stderr
    if result.truncated:
        stderr += b"\n[output cut: the guest agent keeps 16 MiB]\n"
    messages = []
    for start in range(0, len(result.stdout), _CHUNK_BYTES):
        data = result.stdout[start : start + _CHUNK_BYTES]
        messages.append(_Response(stdout=_Operation(data=data)))
    for start in range(0, len(stderr), _CHUNK_BYTES):
        data = stderr[start : start + _CHUNK_BYTES]
        messages.append(_Response(stderr=_Operation(data=data)))
    messages.append(_Response(stdout=_Operation(close=True)))
    messages.append(_Response(stderr=_Operation(close=True)))
    messages.append(_Response(exited=True, result=_exit_result(result)))
    return messages


def _exit_result(result: ExecResult) -> driver_pb2.ExitResult:
    return driver_pb2.ExitResult(exit_code=result.exit_code, signal=result.signal or 0)
