"""How this process's allocator treats buffers. Owns glibc's two thresholds, nothing else."""

import functools

from qemu_node.units import MIB

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_BYTES = 4 * MIB
_KEPT_BYTES = 8 * MIB


@functools.cache
def reuse_large_buffers() -> None:
    """Let glibc keep memory of freed buffers up to 4 MiB, at most 8 MiB of it; done, do nothing.

    As it is, glibc gives each buffer above 128 KiB pages of its own and returns them to the kernel
    at once (man 3 mallopt): what streams in buffers of that size pays a page fault, and the zeroing
    of a page, for each 4 KiB, which takes longer than receiving them. It adapts to the sizes that
    it sees, but not always. On another C library this does nothing.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
