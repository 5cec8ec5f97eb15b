"""How this process's allocator keeps memory: glibc's knobs (man 3 mallopt), nothing else."""

import functools

from qemu_node.units import MIB

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_LARGEST_BYTES = 4 * MIB
_KEPT_BYTES = 8 * MIB
_RETURNED_BYTES = MIB // 2


@functools.cache
def reuse_large_buffers() -> None:
    """Let glibc keep the memory of freed buffers up to 4 MiB, at most 8 MiB of it. Idempotent.

    By default glibc gives each buffer above 128 KiB pages of its own and returns them to the
    kernel at once (man 3 mallopt). A download in buffers of that size then pays a page fault and
    the zeroing of a page for each 4 KiB, which takes longer than receiving them. glibc adapts to
    the sizes that it sees, but not always. On another C library this does nothing.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def return_large_buffers() -> None:
    """Give the memory of freed buffers above 512 KiB back to the kernel at once.

    glibc raises that bound by itself to the size of what was freed, at most 32 MiB, and keeps twice
    as much: a process that now and then has a few megabytes in hand would keep them. On another C
    library this does nothing.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _RETURNED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _RETURNED_BYTES)


def keep_one_arena() -> None:
    """Let all threads allocate from one heap. Call it before any thread starts.

    By default glibc gives each thread a heap of its own, up to eight for each CPU, and what one
    thread has freed is of no use to another. On another C library this does nothing.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def give_back_free_memory() -> None:
    """Return whole free pages anywhere in the heap to the kernel. Blocks for some ms.

    By itself glibc returns only what is at the end of the heap. On another C library this does
    nothing.
    """
    import ctypes

    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
