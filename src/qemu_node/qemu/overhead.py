"""Memory that a VM needs beside its guest's RAM, and what RAM a task's memory leaves.

Pure. Owns the bound. Does not own the cgroup limit (`host.cgroup`).

How the numbers were measured: the product's own command line on QEMU 7.2.22 and 10.0.13 under TCG,
Debian's 6.12 kernel filling its memory with files and reading them back, anonymous memory from
/proc/PID/smaps each second, the mapping of guest RAM left out, the highest value kept. In MiB:

    vCPUs                        1        2        4
    firmware only              29-30      32       24   (4: SeaBIOS)
    guest using 512 MiB        43-43      49    52-69
    guest using 2 GiB            -     44-45       -   (SeaBIOS, cut off after 240 s)
    translation cache          54-56   57-62    41-62   (TCG only, 64 at most)

Idle firmware touches 4 of 16 MiB of video memory and nobody watched, so a screen in full use (video
memory, two copies in the VNC server) and full qcow2 caches are added: 16 + 32 + 8 MiB. Page tables
of QEMU came to 1/450 of guest RAM. The figures for KVM are those less what only TCG needs, plus
KVM's own page tables by calculation; they were not measured. QEMU's code and libraries are file
pages, shared and reclaimable, and not counted.
"""

from qemu_node.errors import JobError
from qemu_node.qemu.cmdline import GUEST_RAM_ALIGN_BYTES, TCG_TB_SIZE_MIB
from qemu_node.qemu.spec import Accelerator, FirmwareMode
from qemu_node.units import MIB, format_size

MIN_GUEST_RAM_BYTES = 64 * MIB
"""With less, neither UEFI nor any guest starts."""

_QEMU_BYTES = 32 * MIB
_SCREEN_AND_CACHES_BYTES = 56 * MIB
_FLASH_BYTES = 8 * MIB  # code and varstore are 4.1 MiB, read into RAM of their own
_VCPU_BYTES = 4 * MIB  # thread, stack, malloc arena
# Page tables of 8 bytes for each 4 KiB page: QEMU's own, KVM's second level and its reverse map.
_PAGE_TABLES_FRACTION = 128
_TCG_VCPU_BYTES = 12 * MIB  # translated addresses (softmmu TLBs), one set a vCPU
# Translation keeps a descriptor for each page of code, and the TLBs grow with the memory in use.
_TCG_PAGES_FRACTION = 64


def overhead_bytes(
    task_memory_bytes: int, *, accelerator: Accelerator, vcpus: int, firmware: FirmwareMode
) -> int:
    """Return how much memory QEMU may use beside guest RAM, an upper bound, page tables included.

    Args:
        task_memory_bytes: The task's whole memory; guest RAM is less.
        accelerator: TCG needs a translation cache and large TLBs on top.
        vcpus: How many vCPUs the guest has.
        firmware: UEFI needs its flash in memory.
    """
    total = _QEMU_BYTES + _SCREEN_AND_CACHES_BYTES + vcpus * _VCPU_BYTES
    total += task_memory_bytes // _PAGE_TABLES_FRACTION
    if firmware is not FirmwareMode.BIOS:
        total += _FLASH_BYTES
    if accelerator is Accelerator.TCG:
        total += TCG_TB_SIZE_MIB * MIB + vcpus * _TCG_VCPU_BYTES
        total += task_memory_bytes // _TCG_PAGES_FRACTION
    return total


def guest_memory_bytes(
    task_memory_bytes: int, *, accelerator: Accelerator, vcpus: int, firmware: FirmwareMode
) -> int:
    """Return the guest RAM that fits a task's memory together with QEMU's overhead, in whole 2 MiB.

    Raises:
        JobError: less than 64 MiB would be left; the message says how much the task needs.
    """
    overhead = overhead_bytes(
        task_memory_bytes, accelerator=accelerator, vcpus=vcpus, firmware=firmware
    )
    left = task_memory_bytes - overhead
    guest = left - left % GUEST_RAM_ALIGN_BYTES
    if guest < MIN_GUEST_RAM_BYTES:
        raise JobError(
            f"memory of {format_size(task_memory_bytes)} is too little for a VM with {vcpus} vCPU "
            f"under {accelerator}: QEMU may use {format_size(overhead)} of it and the guest needs "
            f"{format_size(MIN_GUEST_RAM_BYTES)}",
            hint=f"give it at least {format_size(overhead + 2 * MIN_GUEST_RAM_BYTES)}",
        )
    return guest
