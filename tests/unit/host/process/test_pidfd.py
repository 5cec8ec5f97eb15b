import asyncio
import errno
import os
import signal
from pathlib import Path

import pytest

from qemu_node.host.process import identity, pidfd
from qemu_node.host.process.identity import ProcessId

OWN = os.getpid()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("code", [errno.ESRCH, errno.EINVAL, errno.ENOENT])
async def test_a_pid_that_is_gone_or_now_a_threads_counts_as_gone(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    gone = ProcessId(pid=OWN, start_time=1)
    assert not pidfd.send_signal(gone, signal.SIGTERM)
    async with asyncio.timeout(10):
        await pidfd.wait_gone(gone)


async def test_waiting_for_a_live_process_can_be_cancelled_and_leaks_no_descriptor() -> None:
    own = identity.identify(OWN)
    assert own is not None
    before = open_descriptors()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pidfd.wait_gone(own)
    assert open_descriptors() == before
