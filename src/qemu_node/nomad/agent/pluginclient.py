"""A plugin process seen from the agent's side: start it, shake hands, call it, end it.

Owns the process and the connection; `calls` has the RPCs. `qemu-node run` and tests use it; on a
node Nomad's agent does the same. Does not own what the driver is asked.

Facts: go-plugin 1.8.0 client.go (handshake, Kill), log_entry.go (log lines).
"""

import asyncio
import contextlib
import json
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from qemu_node.errors import NodeError
from qemu_node.host.process import command, identity, pidfd
from qemu_node.host.process.exitstatus import describe_exit, with_last_words
from qemu_node.nomad.agent.calls import GoPluginCalls, base_calls, driver_calls
from qemu_node.nomad.agent.pipe import LinePipe
from qemu_node.nomad.plugin import handshake
from qemu_node.nomad.plugin.grpcstatus import PluginError
from qemu_node.nomad.plugin.rpc import CHANNEL_OPTIONS, grpc, unix_target

LogEntry = dict[str, Any]
"""A line of a plugin's log: its JSON fields, or only `@message` and `@level` for plain text."""

_SHUTDOWN_WAIT_S = 2.0  # go-plugin's Kill waits as long, then kills
_LAST_WORDS_WAIT_S = 2.0
_STDERR_TAIL_LINES = 20


class PluginClient:
    """One plugin process and the connection to it. Use it in `async with`, or call `shutdown`."""

    def __init__(
        self,
        child: command.Child,
        channel: grpc.aio.Channel,
        pipes: contextlib.ExitStack,
        stderr: LinePipe,
    ) -> None:
        self._child = child
        self._channel = channel
        self._pipes = pipes
        self._stderr = stderr
        self._go_plugin = GoPluginCalls(channel)
        self.base = base_calls(channel)
        self.driver = driver_calls(channel)

    @property
    def process(self) -> identity.ProcessId:
        """The plugin's process."""
        return self._child.process

    @classmethod
    async def launch(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin_fd: int | None = None,
        on_log: Callable[[LogEntry], None] | None = None,
        timeout_s: float = 60.0,
    ) -> Self:
        """Start a plugin and connect to it.

        Args:
            argv: The plugin's program and arguments.
            env: Its environment; the handshake's variables are added.
            stdin_fd: Its stdin; `/dev/null` by default.
            on_log: Called in the event loop with each line of its log.
            timeout_s: Time limit until its first answer; Nomad waits a minute.

        Raises:
            MissingPartError: the program cannot be executed.
            NodeError: no answer in time, or one of another protocol. The message has the
                end of its log.
        """
        said: deque[str] = deque(maxlen=_STDERR_TAIL_LINES)

        def on_stderr(line: bytes) -> None:
            entry = parse_log_line(line)
            said.append(str(entry["@message"]))
            if on_log is not None:
                on_log(entry)

        first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def on_stdout(line: bytes) -> None:
            # A plugin prints nothing after its handshake. Ignore it if it does.
            if not first.done():
                first.set_result(line)

        async with contextlib.AsyncExitStack() as undo:
            pipes = undo.enter_context(contextlib.ExitStack())
            stdout = pipes.enter_context(LinePipe(on_stdout, on_end=lambda: on_stdout(b"")))
            stderr = pipes.enter_context(LinePipe(on_stderr))
            child = command.spawn(
                argv,
                stderr_fd=stderr.writing_end,
                stdout_fd=stdout.writing_end,
                stdin_fd=stdin_fd,
                env={**env, **handshake.client_environment()},
            )
            undo.push_async_callback(_end, child)
            stdout.close_writing_end()
            stderr.close_writing_end()
            try:
                async with asyncio.timeout(timeout_s):
                    client = cls(child, _dial(await first), pipes, stderr)
                    undo.push_async_callback(client._channel.close)
                    await client._go_plugin.is_serving()
            except (handshake.HandshakeLineError, PluginError, TimeoutError) as exc:
                reason = await _why_not_started(child, exc, timeout_s)
                stderr.drain()
                raise NodeError(with_last_words(reason, "\n".join(said))) from exc
            undo.pop_all()
            return client

    async def wait_ended(self) -> int | None:
        """Wait until the process has ended; return its exit code, -N for death by signal N."""
        await pidfd.wait_gone(self._child.process)
        return self._child.exit_status()

    async def shutdown(self) -> int | None:
        """End the plugin as Nomad does: ask, wait two seconds, kill. Return its exit code.

        Its VMs go on. Idempotent.
        """
        if self._child.exit_status() is None:
            with contextlib.suppress(PluginError):
                await self._go_plugin.shutdown(timeout_s=_SHUTDOWN_WAIT_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SHUTDOWN_WAIT_S):
                    await pidfd.wait_gone(self._child.process)
        await _end(self._child)
        await self._channel.close()
        self._stderr.drain()
        self._pipes.close()
        return self._child.exit_status()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.shutdown()


def parse_log_line(line: bytes) -> LogEntry:
    """Return the fields of a line of a plugin's log. Plain text becomes a debug message."""
    text = line.decode(errors="replace")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return {"@level": "debug", "@message": text}
    return {"@level": "debug", "@message": "", **fields}


def _dial(line: bytes) -> grpc.aio.Channel:
    """Return a channel to the address in a handshake line."""
    shaken = handshake.Handshake.parse(line.decode(errors="surrogateescape"))
    return grpc.aio.insecure_channel(unix_target(shaken.socket), options=CHANNEL_OPTIONS)


async def _why_not_started(child: command.Child, exc: Exception, timeout_s: float) -> str:
    """Return why a plugin did not start: how it exited, if it did."""
    if isinstance(exc, TimeoutError):
        return f"the plugin gave no answer within {timeout_s:g} s"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS_WAIT_S):
            await pidfd.wait_gone(child.process)
    code = child.exit_status()
    return str(exc) if code is None else f"the plugin {describe_exit(code)}"


async def _end(child: command.Child) -> None:
    """Kill the process if it still runs, and reap it."""
    pidfd.send_signal(child.process, signal.SIGKILL)
    await pidfd.wait_gone(child.process)
    child.exit_status()
