"""Buffers that come and go do not cost a page fault for each of their pages."""

import sys

from qemu_node.host import process

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
    env = {**process.SAFE_ENV, **_NOT_ADAPTED, "PYTHONPATH": ":".join(sys.path)}
    return int(process.run_blocking(argv, env=env, timeout_s=60).stdout)


def test_memory_of_freed_buffers_is_used_again() -> None:
    assert _faults("reuse_large_buffers()") < _faults("") / 10
