"""Moves what one VM prints into its task's log.

Owns the pair of pumps: the guest's console to stdout, messages of QEMU and of the driver to stderr.
Does not own the files at either end (`serial`, and whoever gave the sinks).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from qemu_node.config.node import LogsConfig
from qemu_node.errors import HostError
from qemu_node.host.concurrency.threads import Worker, to_the_end
from qemu_node.host.process.exitstatus import LAST_WORDS_CHARS, last_words
from qemu_node.host.process.identity import ProcessId
from qemu_node.units import MIB
from qemu_node.vm.output.console_log import BACKLOG_BYTES, ConsolePump, TokenBucket
from qemu_node.vm.output.serial import SerialLog
from qemu_node.vm.output.serialbound import SerialBound
from qemu_node.vm.output.textfilter import TerminalFilter
from qemu_node.vm.record.directory import VMDirectory

log = logging.getLogger(__name__)

Sink = Callable[[bytes], None]

_BURST_S = 4

UNREAD_MAX_BYTES = BACKLOG_BYTES + 8 * MIB
"""How much may wait in a serial log while nobody reads it. More than a reader lets wait, so that
the reader drops the oldest output before QEMU has to drop the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLogs:
    """A task's two streams, open; a sink never fails."""

    stdout: Sink
    stderr: Sink
    close: Callable[[], None]


def _discard(_data: bytes) -> None:
    pass


NO_LOGS = TaskLogs(stdout=_discard, stderr=_discard, close=lambda: None)
"""For a VM whose job wants none, or whose allocation's directory is gone."""


def opened_at_first_use(open_logs: Callable[[], TaskLogs]) -> TaskLogs:
    """Return logs that `open_logs` opens when something is written: for those of a recovered VM.

    A driver recovers hundreds of VMs at once, and most of them are silent. If the logs cannot be
    opened, that is logged, and what is written is lost. Used from one thread at a time.
    """
    opened: TaskLogs | None = None

    def logs() -> TaskLogs:
        nonlocal opened
        if opened is None:
            try:
                opened = open_logs()
            except HostError as exc:
                log.warning("recovered VM is not logged", extra={"error": str(exc)})
                opened = NO_LOGS
        return opened

    def close() -> None:
        if opened is not None:
            opened.close()

    return TaskLogs(
        stdout=lambda data: logs().stdout(data),
        stderr=lambda data: logs().stderr(data),
        close=close,
    )


class VMLogs:
    """Moves what a VM prints into its task's streams; `close` closes those too."""

    def __init__(
        self,
        directory: VMDirectory,
        process: ProcessId,
        task_logs: TaskLogs,
        limits: LogsConfig,
        worker: Worker,
    ) -> None:
        """Open a VM's output.

        Args:
            directory: Where QEMU writes it.
            process: The QEMU.
            task_logs: Where it goes.
            limits: How fast.
            worker: Its thread moves the bytes of all VMs, one call at a time: both ends are on
                disks, and the event loop waits for none.
        """
        self._task_logs = task_logs
        self._directory = directory
        self._worker = worker
        self._words: ConsolePump | None = None
        self.pumps: list[ConsolePump] = []
        """What is to be polled."""
        rate = limits.rate_bytes_per_s
        bound = SerialBound(process, UNREAD_MAX_BYTES)
        for path, sink, its_bound in (
            (directory.serial_log, task_logs.stdout, bound),
            (directory.qemu_log, task_logs.stderr, None),
        ):
            try:
                source = SerialLog(path, its_bound)
            except HostError as exc:
                # A VM whose log was removed is managed nevertheless.
                log.warning("output of a VM is not logged", extra={"error": str(exc)})
                continue
            bucket = TokenBucket(rate_bytes_per_s=rate, burst_bytes=_BURST_S * rate)
            self.pumps.append(ConsolePump(source, TerminalFilter(), bucket, sink))
            if sink is task_logs.stderr:
                self._words = self.pumps[-1]

    async def last_words(self) -> str:
        """Return the end of what QEMU wrote to stderr, on one line.

        Both what the pump has moved and what it has not, so that nobody waits for the pump.
        """
        unread = await to_the_end(last_words_of, self._directory)
        moved = "" if self._words is None else last_words(self._words.tail)
        return last_words(f"{moved} {unread}")

    async def finish(self, last: str) -> None:
        """Move all that is left, as QEMU is gone, and put words of the driver after it."""
        for pump in self.pumps:
            while await self._worker.to_the_end(pump.drain_some):
                pass
            await self._worker.to_the_end(pump.finish)
        await self._worker.to_the_end(self._task_logs.stderr, f"{last}\n".encode())

    async def close(self) -> None:
        """Stop moving; what is left waits for the next driver. Idempotent."""
        await self._worker.to_the_end(self._close)

    def _close(self) -> None:
        for pump in self.pumps:
            pump.close()
        self._task_logs.close()


def last_words_of(directory: VMDirectory) -> str:
    """Return the end of what QEMU wrote to stderr and no pump has moved, on one line."""
    try:
        with directory.qemu_log.open("rb") as qemu_log:
            qemu_log.seek(max(0, directory.qemu_log.stat().st_size - LAST_WORDS_CHARS))
            return last_words(qemu_log.read(LAST_WORDS_CHARS).replace(b"\0", b""))
    except OSError:
        return ""
