"""One VM's words on their way into its task's log.

Owns the pair of pumps: the guest's console to stdout, QEMU's and the driver's own words to stderr.
Does not own the files at either end (`serial`, and whoever gave the sinks).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from qemu_node.config.node import LogsConfig
from qemu_node.errors import HostError
from qemu_node.vm.console_log import ConsolePump
from qemu_node.vm.directory import VMDirectory
from qemu_node.vm.ratelimit import TokenBucket
from qemu_node.vm.serial import SerialLog
from qemu_node.vm.textfilter import TerminalFilter

log = logging.getLogger(__name__)

Sink = Callable[[bytes], None]

_BURST_S = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLogs:
    """A task's two streams, open; a sink never fails."""

    stdout: Sink
    stderr: Sink
    close: Callable[[], None]


def _discard(_data: bytes) -> None:
    pass


NO_LOGS = TaskLogs(stdout=_discard, stderr=_discard, close=lambda: None)
"""For a VM whose allocation's directory is gone."""


class VMLogs:
    """Moves what a VM prints into its task's streams, which it closes with itself."""

    def __init__(self, directory: VMDirectory, task_logs: TaskLogs, limits: LogsConfig) -> None:
        self._task_logs = task_logs
        self._words: ConsolePump | None = None
        self.pumps: list[ConsolePump] = []
        """What is to be polled."""
        rate = limits.rate_bytes_per_s
        for path, sink in (
            (directory.serial_log, task_logs.stdout),
            (directory.qemu_log, task_logs.stderr),
        ):
            try:
                source = SerialLog(path)
            except HostError as exc:
                # A VM whose files were taken away is managed to its end all the same.
                log.warning("output of a VM is not logged", extra={"error": str(exc)})
                continue
            bucket = TokenBucket(rate_bytes_per_s=rate, burst_bytes=_BURST_S * rate)
            self.pumps.append(ConsolePump(source, TerminalFilter(), bucket, sink))
            if sink is task_logs.stderr:
                self._words = self.pumps[-1]

    def say(self, text: str) -> None:
        """Put words of the driver into the task's stderr."""
        self._task_logs.stderr(f"{text}\n".encode())

    @property
    def last_words(self) -> str:
        """The end of what QEMU wrote to stderr and this driver has seen, on one line."""
        tail = b"" if self._words is None else self._words.tail
        return " ".join(tail.decode(errors="replace").split())

    async def finish(self) -> None:
        """Move all that is left: QEMU is gone."""
        for pump in self.pumps:
            await pump.drain()
            pump.finish()

    def close(self) -> None:
        """Stop moving; what is left waits for the next driver. Idempotent."""
        for pump in self.pumps:
            pump.close()
        self._task_logs.close()
