"""Goal: the private memory of an idle VM beside guest RAM, at most 0.35 of the original's.

Counts the private dirty pages of QEMU and of every helper process of the VM, without the mapping
of guest RAM. The guests are paused before their first instruction on both sides, so nothing
depends on what a guest does. Both firmwares have Secure Boot, the default of both projects.

A page that KSM has merged is no longer private. The goal is for a node as it is meant to run, with
KSM and some equal VMs, whose firmware is merged. The original's figure is without: its ksmtuned
does not begin before memory is short, and its helper processes are not mergeable. The figure
without KSM stands beside it.

Without the original in this run, recorded figures of it are used; they are those of one QEMU
version, which is named beside them.
"""

from pathlib import Path

from bench.driver.ksm import ksm_merged
from bench.rig import procs
from bench.rig.node import BenchDriver, StartedVM, bench_driver
from bench.setting import OriginalFigures, Setting
from bench.table import Figure, Goal
from qemu_node.config.node import QemuConfig
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
    async with bench_driver(is_paused=True) as driver:
        bios = await _start(driver, FirmwareMode.BIOS)
        bios_bytes = _private(bios)
        for vm in bios:
            await driver.destroy(vm)
        secure = await _start(driver, FirmwareMode.SECURE_BOOT)
        secure_bytes = _private(secure)
        async with ksm_merged():
            merged_bytes = _private(secure)
    return [
        _figure("private memory of a VM, bios", bios_bytes),
        _figure("private memory of a VM, secure-boot", secure_bytes),
        _figure("… with KSM", merged_bytes),
        _figure(f"the original's ({original.origin})", (original_bytes,)),
        _ratio("ratio to the original, secure-boot", secure_bytes, original_bytes),
        _ratio("… with KSM", merged_bytes, original_bytes, Goal(at_most=_RATIO_MAX)),
    ]


async def _start(driver: BenchDriver, firmware: FirmwareMode) -> list[StartedVM]:
    return [await driver.start(firmware) for _ in range(_VMS)]


def _private(vms: list[StartedVM]) -> tuple[float, ...]:
    """Return the private bytes of each VM beside its guest RAM."""
    return tuple(
        float(procs.private_bytes(vm.process.pid, guest_ram_bytes=vm.record.memory_bytes))
        for vm in vms
    )


def _figure(what: str, samples_bytes: tuple[float, ...]) -> Figure:
    return Figure(
        bench=NAME, what=what, unit="MiB", samples=tuple(value / MIB for value in samples_bytes)
    )


def _ratio(
    what: str, samples_bytes: tuple[float, ...], original_bytes: float, goal: Goal | None = None
) -> Figure:
    samples = tuple(value / original_bytes for value in samples_bytes)
    return Figure(bench=NAME, what=what, unit="", samples=samples, goal=goal)
