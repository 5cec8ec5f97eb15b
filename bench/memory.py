"""Goal: the private memory of an idle VM beside guest RAM, at most 0.35 of the original's.

Counted are the private dirty pages of QEMU and of every helper process of the VM, without the
mapping of guest RAM. The guests are paused before their first instruction on both sides, so nothing
depends on what a guest does. Both firmwares have Secure Boot, the default of both projects.

Without the original in this run, the figures recorded of it are taken; they are those of one QEMU
version, which is why they are given with it.
"""

from pathlib import Path

from bench import procs
from bench.node import bench_driver
from bench.setting import OriginalFigures, Setting
from bench.table import Figure, Goal
from qemu_node.config import QemuConfig
from qemu_node.qemu.firmware import find_firmware
from qemu_node.qemu.spec import FirmwareMode
from qemu_node.units import MIB

NAME = "memory"

_VMS = 4
_RATIO_MAX = 0.35

_RECORDED = OriginalFigures(
    helpers_private_bytes=26.6 * MIB,
    qemu_private_bytes=26.6 * MIB,
    origin="recorded with QEMU 7.2.22 and Nomad 2.0.6-dev, mean of 4 VMs",
)


async def measure(setting: Setting) -> list[Figure]:
    """Return what a paused VM costs, by firmware, and its ratio to the original.

    Raises:
        MissingPartError: there is no firmware with Secure Boot.
    """
    # Asked before: from the plugin it would come as an error of the start.
    _ = find_firmware(FirmwareMode.SECURE_BOOT, [Path(name) for name in QemuConfig().firmware_dirs])
    original = setting.original or _RECORDED
    original_bytes = original.helpers_private_bytes + original.qemu_private_bytes
    by_firmware: dict[FirmwareMode, tuple[float, ...]] = {}
    async with bench_driver(is_paused=True) as driver:
        for firmware in (FirmwareMode.BIOS, FirmwareMode.SECURE_BOOT):
            vms = [await driver.start(firmware) for _ in range(_VMS)]
            by_firmware[firmware] = tuple(
                float(procs.private_bytes(vm.process.pid, guest_ram_bytes=vm.record.memory_bytes))
                for vm in vms
            )
            for vm in vms:
                await driver.destroy(vm)
    figures = [
        Figure(
            bench=NAME,
            what=f"private memory of a VM, {firmware}",
            unit="MiB",
            samples=tuple(value / MIB for value in samples),
        )
        for firmware, samples in by_firmware.items()
    ]
    return [
        *figures,
        Figure(
            bench=NAME,
            what=f"the original's ({original.origin})",
            unit="MiB",
            samples=(original_bytes / MIB,),
        ),
        Figure(
            bench=NAME,
            what="ratio to the original, secure-boot",
            unit="",
            samples=tuple(
                value / original_bytes for value in by_firmware[FirmwareMode.SECURE_BOOT]
            ),
            goal=Goal(at_most=_RATIO_MAX),
        ),
    ]
