"""The first words with a QEMU that was just started, or its last ones.

Owns waiting for the greeting without missing QEMU's end. Does not own the connection afterwards.
"""

import asyncio
import contextlib

from qemu_node.errors import HostError, QmpError
from qemu_node.host.concurrency.cancellation import race
from qemu_node.host.process.command import Child
from qemu_node.host.process.exitstatus import describe_exit
from qemu_node.host.process.pidfd import wait_gone
from qemu_node.qmp import commands as qmp_commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.vm.output.textfilter import TerminalFilter
from qemu_node.vm.record.directory import VMDirectory

_QMP_TIMEOUT_S = 60.0
"""Bound for QEMU to greet. It takes 30 ms on an idle host; a loaded one swaps and compiles."""

_END_TIMEOUT_S = 1.0
"""What a QEMU that has closed its control socket gets to be gone."""

_LAST_WORDS_BYTES = 600


class QemuStartError(HostError):
    """QEMU ended or stayed mute during the start; it is gone, with all that was made for it."""


async def greet(directory: VMDirectory, child: Child) -> QmpConnection:
    """Return the control connection once QEMU has greeted and runs the guest.

    Raises:
        QemuStartError: QEMU ended first, with its last words, or did not greet in time.
    """
    try:
        _, qmp = await race(
            _connect(directory), _until_gone(directory, child), discard=QmpConnection.close
        )
    except QmpError as exc:
        # The end of QEMU closes the connection first, and is what there is to tell.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_TIMEOUT_S):
                await _until_gone(directory, child)
        words = last_words(directory)
        raise QemuStartError(f"{exc}" + (f"; QEMU said: {words}" if words else "")) from exc
    return qmp


async def _connect(directory: VMDirectory) -> QmpConnection:
    qmp = await QmpConnection.connect(directory.run / "qmp.sock", timeout_s=_QMP_TIMEOUT_S)
    try:
        await qmp_commands.query_status(qmp)
    except BaseException:
        await qmp.close()
        raise
    return qmp


async def _until_gone(directory: VMDirectory, child: Child) -> QmpConnection:
    """Raise once QEMU is gone."""
    await wait_gone(child.process)
    status, words = child.exit_status(), last_words(directory)
    # None: somebody else has reaped it.
    how = "ended" if status is None else describe_exit(status)
    raise QemuStartError(f"QEMU {how} during the start" + (f": {words}" if words else ""))


def last_words(directory: VMDirectory) -> str:
    """Return the end of what QEMU wrote to stderr, on one line."""
    try:
        with directory.qemu_log.open("rb") as qemu_log:
            qemu_log.seek(max(0, directory.qemu_log.stat().st_size - _LAST_WORDS_BYTES))
            tail = qemu_log.read(_LAST_WORDS_BYTES)
    except OSError:
        return ""
    return " ".join(TerminalFilter().feed(tail).decode().split())
