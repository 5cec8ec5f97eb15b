"""VM specifications for tests: one complete VM per combination of what decides its command line."""

import dataclasses
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from qemu_node.qemu.spec import (
    Accelerator,
    BaseImage,
    DiskAio,
    FirmwareMode,
    Hardware,
    OsFamily,
    PflashFirmware,
    PortForward,
    QemuVersion,
    SocketFds,
    TapNic,
    UserNic,
    VMSpec,
)
from qemu_node.units import GIB

QEMU_7_2 = QemuVersion(major=7, minor=2, micro=22)
QEMU_10_0 = QemuVersion(major=10, minor=0, micro=13)

HARDWARE = Hardware(
    os=OsFamily.LINUX, firmware=FirmwareMode.SECURE_BOOT, vcpus=2, merge=True, watchdog=False
)

EVERY_SWITCH: dict[str, Any] = {
    name: True for name, kind in get_type_hints(Hardware).items() if kind is bool
}
"""What a job can turn on in the hardware: with it `make_spec` has the devices of options, too."""

CASES = tuple(product(OsFamily, FirmwareMode, Accelerator))


def case_name(os: OsFamily, mode: FirmwareMode, accelerator: Accelerator) -> str:
    return f"{os}-{mode}-{accelerator}"


def pflash(mode: FirmwareMode, directory: Path) -> PflashFirmware | None:
    if mode is FirmwareMode.BIOS:
        return None
    is_secure = mode is FirmwareMode.SECURE_BOOT
    return PflashFirmware(
        code=Path("/usr/share/OVMF") / f"OVMF_CODE_4M{'.ms' if is_secure else ''}.fd",
        varstore=directory / "varstore.fd",
        is_secure=is_secure,
    )


def make_spec(
    os: OsFamily = OsFamily.LINUX,
    mode: FirmwareMode = FirmwareMode.SECURE_BOOT,
    accelerator: Accelerator = Accelerator.TCG,
    **changes: Any,
) -> VMSpec:
    """Return a VM with every device that no option adds.

    `changes` replace its fields and its hardware's.
    """
    data = Path("/data/vm/web-0123456789ab")
    run = Path("/run/qemu-node/vm/web-0123456789ab")
    spec = VMSpec(
        vm_id="web-0123456789ab",
        uuid="8e3ff5e8-4e17-5b1b-a8a5-0f2d8c0f5d0c",
        hardware=msgspec.structs.replace(HARDWARE, os=os, firmware=mode),
        accelerator=accelerator,
        pflash=pflash(mode, data),
        memory_bytes=1 * GIB,
        overlay=data / "overlay.qcow2",
        base=BaseImage(path=Path("/data/images/base.qcow2"), is_qcow2=True),
        config_drive=data / "config-drive.iso",
        nics=(
            UserNic(
                mac="52:54:00:12:34:56",
                hostname="web-0",
                forwards=(
                    PortForward(label="http", host_ip="127.0.0.1", host_port=20080, guest_port=80),
                ),
            ),
            TapNic(mac="02:00:00:00:00:01", tap_fds=(14,), vhost_fds=(), mtu=None),
            TapNic(mac="02:00:00:00:00:02", tap_fds=(15, 16), vhost_fds=(17, 18), mtu=1400),
        ),
        sockets=SocketFds(qmp=10, monitor=11, console=19, qga=12, serial=13),
        vnc_socket=run / "vnc.sock",
        serial_log=data / "serial.log",
        aio=DiskAio.IO_URING,
        args=(),
    )
    hardware = {name: changes.pop(name) for name in Hardware.__struct_fields__ if name in changes}
    changes["hardware"] = msgspec.structs.replace(spec.hardware, **hardware)
    return dataclasses.replace(spec, **changes)
