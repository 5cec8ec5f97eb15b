"""TAP devices of the real kernel, in a network namespace of the test's own."""

import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from network.namespaces import private_network

from qemu_node.host.process import command, pidfd
from qemu_node.net.errors import TapBusyError
from qemu_node.net.port.tap import open_tap

pytestmark = [pytest.mark.needs_root]

NAME = "qn0123456789a00"
NOBODY = 65534
_SYS_SETRESUID = 117  # x86-64


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with private_network():
        yield


def is_there(ifname: str) -> bool:
    return ifname in {name for _, name in socket.if_nameindex()}


def wait_gone(ifname: str) -> None:
    deadline = time.monotonic() + 30
    while is_there(ifname):
        assert time.monotonic() < deadline, f"{ifname} is still there"
        time.sleep(0.01)


@pytest.mark.parametrize("queues", [1, 2])
def test_a_process_that_may_open_tun_cannot_join_the_tap_of_a_vm(queues: int) -> None:
    tap = open_tap(NAME, queues=queues)
    # udev lets everybody open it.
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    flags = 0x1002 | (0x0100 if queues > 1 else 0)  # IFF_TAP | IFF_NO_PI, IFF_MULTI_QUEUE
    refusals: list[OSError] = []

    def join() -> None:
        # Of this thread alone, with its capabilities: glibc's own call would change all threads.
        assert ctypes.CDLL(None).syscall(_SYS_SETRESUID, *[NOBODY] * 3) == 0
        try:
            fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", NAME.encode(), flags))
        except OSError as exc:
            refusals.append(exc)

    thread = threading.Thread(target=join)
    thread.start()
    thread.join()
    os.close(tun)
    tap.close()
    [refusal] = refusals
    assert refusal.errno in (errno.EPERM, errno.EBUSY)


def test_a_tap_goes_with_its_last_descriptor() -> None:
    tap = open_tap(NAME)
    assert is_there(NAME)
    assert tap.ifindex == socket.if_nametoindex(NAME)
    heir = os.dup(tap.fds[0])
    tap.close()
    assert is_there(NAME)
    os.close(heir)
    wait_gone(NAME)


def test_a_new_tap_is_down_and_the_node_is_silent_on_it() -> None:
    tap = open_tap(NAME)
    try:
        flags = int(Path(f"/sys/class/net/{NAME}/flags").read_text(), 16)
        assert not flags & 1
        settings = Path("/proc/sys/net")
        assert (settings / f"ipv6/conf/{NAME}/disable_ipv6").read_text() == "1\n"
        assert (settings / f"ipv4/conf/{NAME}/rp_filter").read_text() == "1\n"
    finally:
        tap.close()


@pytest.mark.parametrize("queues", [1, 4])
def test_a_tap_has_a_descriptor_for_each_queue_and_no_program_inherits_one(queues: int) -> None:
    tap = open_tap(NAME, queues=queues)
    try:
        assert len(set(tap.fds)) == queues
        assert len(tap.vhost_fds) in (0, queues)
        for fd in (*tap.fds, *tap.vhost_fds):
            assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    finally:
        tap.close()


@pytest.mark.parametrize("queues", [1, 4])
@pytest.mark.parametrize("queues_before", [1, 4])
def test_a_tap_that_somebody_has_is_not_shared(queues: int, queues_before: int) -> None:
    tap = open_tap(NAME, queues=queues_before)
    try:
        with pytest.raises(TapBusyError, match=NAME):
            open_tap(NAME, queues=queues)
        assert is_there(NAME)
    finally:
        tap.close()
    wait_gone(NAME)
    open_tap(NAME, queues=queues).close()


def test_a_tap_of_a_killed_process_goes(tmp_path: Path) -> None:
    tap = open_tap(NAME, queues=2)
    with (tmp_path / "stderr").open("wb") as stderr:
        child = command.spawn(["sleep", "600"], stderr_fd=stderr.fileno(), pass_fds=tap.fds)
    tap.close()
    assert is_there(NAME)
    pidfd.send_signal(child.process, signal.SIGKILL)
    wait_gone(NAME)
    while child.exit_status() is None:
        time.sleep(0.01)
