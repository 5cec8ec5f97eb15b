"""A network of one's own for a test: namespaces, entered and left by this process.

Owns namespaces and running iproute2 in them. Does not own what is built there (`lab`).
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qemu_node.host.process.command import run_blocking

# include/uapi/linux/sched.h
_CLONE_FS, _CLONE_NEWNS, _CLONE_NEWNET = 0x00000200, 0x00020000, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: int) -> None:
    if getattr(_libc, name)(*args) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def _return_to(descriptor: int) -> None:
    """Go back to a namespace that this thread came from.

    The kernel changes no mount namespace of a thread that shares its working directory (EINVAL), as
    it does with all threads that were started inside, such as those of a pool.
    """
    _call("unshare", _CLONE_FS)
    _call("setns", descriptor, 0)


@contextmanager
def private_network() -> Iterator[None]:
    """Give this thread, and what it starts, a network of its own, with its /sys and /run/netns.

    Namespaces made inside end with it, and so do their devices. Processes that run already and
    other threads notice nothing.
    """
    names = ("net", "mnt")
    before = [os.open(f"/proc/thread-self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names]
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    cwd = Path.cwd()
    _call("unshare", _CLONE_NEWNET | _CLONE_NEWNS)
    try:
        script = """
            mount --make-rprivate / && mount -t sysfs sysfs /sys && mkdir -p /run/netns &&
            mount -t tmpfs tmpfs /run/netns && ip link set lo up"""
        run_blocking(["sh", "-c", script])
        yield
    finally:
        for descriptor in before:
            _return_to(descriptor)
            os.close(descriptor)
        # A change of the mount namespace moves to its root, which is outside of a chroot.
        os.fchdir(root)
        os.chroot(".")
        os.close(root)
        os.chdir(cwd)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Let what is opened meanwhile belong to the namespace `name`; "" is the node itself."""
    if not name:
        yield
        return
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", there, _CLONE_NEWNET)
        yield
    finally:
        _call("setns", home, _CLONE_NEWNET)
        os.close(there)
        os.close(home)


def ip(commands: str, *, namespace: str = "") -> None:
    """Run lines of `ip` commands in one process; the first that fails raises."""
    _batch("ip", commands, namespace)


def bridge(commands: str, *, namespace: str = "") -> None:
    """Run lines of `bridge` commands in one process; the first that fails raises."""
    _batch("bridge", commands, namespace)


def _batch(program: str, commands: str, namespace: str) -> None:
    where = ["-n", namespace] if namespace else []
    lines = "\n".join(line.strip() for line in commands.strip().splitlines())
    run_blocking([program, *where, "-batch", "-"], stdin=lines.encode())
