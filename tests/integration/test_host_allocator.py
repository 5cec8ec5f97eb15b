"""Buffers that come and go do not cost a page fault for each of their pages."""

import sys

import pytest

from qemu_node.host.process import command

_COUNT_FAULTS = """
import resource
from qemu_node.host.allocator import reuse_large_buffers
{call}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(200):
    bytes(range(256)) * 4096
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

# glibc when it has not adapted itself to the sizes that it sees.
_NOT_ADAPTED = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def _faults(call: str) -> int:
    argv = [sys.executable, "-c", _COUNT_FAULTS.format(call=call)]
    env = {**command.SAFE_ENV, **_NOT_ADAPTED, "PYTHONPATH": ":".join(sys.path)}
    return int(command.run_blocking(argv, env=env, timeout_s=60).stdout)


def test_memory_of_freed_buffers_is_used_again() -> None:
    assert _faults("reuse_large_buffers()") < _faults("") / 10


_FREE_ALL_BUT_THE_LAST = """
import ctypes
from qemu_node.host.allocator import give_back_free_memory

def rss():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = (ctypes.c_void_p,)
blocks = [libc.malloc(65536) for _ in range(1000)]
for block in blocks:
    ctypes.memset(ctypes.c_void_p(block), 1, 65536)
for block in blocks[:-1]:
    libc.free(block)
before = rss()
give_back_free_memory()
print(before - rss())
"""


def test_memory_that_is_free_in_the_middle_of_the_heap_goes_back_to_the_kernel() -> None:
    env = {**command.SAFE_ENV, "PYTHONPATH": ":".join(sys.path)}
    argv = [sys.executable, "-c", _FREE_ALL_BUT_THE_LAST]
    assert int(command.run_blocking(argv, env=env, timeout_s=60).stdout) > 50 << 20


_HEAPS_OF_THREADS = """
import ctypes, threading
from qemu_node.host.allocator import keep_one_arena
{call}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
seen = set()
together = threading.Barrier(8)

def allocate():
    together.wait()
    # An arena other than the first begins at a multiple of 64 MiB.
    seen.add(libc.malloc(1000) >> 26)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(seen))
"""


def _heaps(call: str) -> int:
    argv = [sys.executable, "-c", _HEAPS_OF_THREADS.format(call=call)]
    env = {**command.SAFE_ENV, "PYTHONPATH": ":".join(sys.path)}
    return int(command.run_blocking(argv, env=env, timeout_s=60).stdout)


def test_all_threads_have_one_heap() -> None:
    assert _heaps("") > 1
    assert _heaps("keep_one_arena()") == 1


_FREE_A_LARGE_ONE = """
from qemu_node.host.allocator import return_large_buffers
{call}

def rss():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

# The first one that is freed teaches glibc that buffers may be so large.
before = rss()
for _ in range(3):
    buffer = bytes(3 << 20)
    small = [bytes(1000) for _ in range(100)]
    del buffer
print(rss() - before)
"""


@pytest.mark.parametrize(("call", "keeps"), [("", True), ("return_large_buffers()", False)])
def test_large_buffers_that_are_freed_are_the_kernels_again(call: str, *, keeps: bool) -> None:
    argv = [sys.executable, "-c", _FREE_A_LARGE_ONE.format(call=call)]
    env = {**command.SAFE_ENV, "PYTHONPATH": ":".join(sys.path)}
    kept_bytes = int(command.run_blocking(argv, env=env, timeout_s=60).stdout)
    assert (kept_bytes > 2 << 20) is keeps
