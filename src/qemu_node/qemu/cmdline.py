"""QEMU's command line, built from a `VMSpec` without I/O.

Owns the order and spelling of every option. Does not own the PCI devices and their backends
(`devices`), the check of a job's raw options (`args`), nor the start of the process (`startqemu`).

Whatever carries a path or a name from outside is written as JSON where QEMU takes JSON (`-object`,
`-blockdev`, `-netdev`, `-device`; QEMU 6.1 and later), so that no character in it can start another
option. `-chardev`, `-name` and `-vnc` take only `key=value,…`: there a comma is doubled, the one
escape that QEMU's option parser has (util/qemu-option.c, get_opt_value).
"""

from qemu_node.errors import JobError
from qemu_node.qemu import devices
from qemu_node.qemu.spec import Accelerator, OsFamily, QemuVersion, VMSpec
from qemu_node.units import MIB

GUEST_RAM_ALIGN_BYTES = 2 * MIB
"""Guest RAM is whole huge pages, so that a transparent huge page can back all of it."""

TCG_TB_SIZE_MIB = 64
"""Translation cache of TCG; QEMU's own default may grow to 1 GiB a VM."""

# Enlightenments that keep an idle Windows guest idle (docs/system/i386/hyperv.rst). Spelled out:
# hv-passthrough is meant for debugging. spinlocks=0xfff: give way early, hosts are overcommitted.
_HYPERV = (
    "hv-relaxed=on", "hv-vapic=on", "hv-spinlocks=0xfff", "hv-vpindex=on", "hv-runtime=on",
    "hv-time=on", "hv-synic=on", "hv-stimer=on", "hv-stimer-direct=on", "hv-tlbflush=on",
    "hv-tlbflush-ext=on", "hv-ipi=on", "hv-frequencies=on", "hv-xmm-input=on",
)  # fmt: skip

ACTIONS = "shutdown=pause,panic=pause,reboot=reset"
"""`-action`: QEMU keeps a guest that has powered off or panicked, paused. So its end can be asked
for over QMP at any later time, also by a driver that was not there. SIGTERM and `quit` still end
QEMU."""

_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def build_argv(spec: VMSpec, binary: str, version: QemuVersion) -> list[str]:
    """Return the whole argv of one VM, `binary` first.

    The guest starts at once. See `ACTIONS` for how it ends.

    Raises:
        JobError: a value cannot be put on a command line: guest RAM that is not whole 2 MiB, no
            vCPU, a string with NUL or outside Unicode, too many NICs, a wrong address or port.
    """
    if spec.memory_bytes <= 0 or spec.memory_bytes % GUEST_RAM_ALIGN_BYTES:
        raise JobError(f"guest RAM of {spec.memory_bytes} bytes is not a multiple of 2 MiB")
    if spec.hardware.vcpus < 1:
        raise JobError(f"a VM needs at least one vCPU, not {spec.hardware.vcpus}")
    # fmt: off
    return [
        binary,
        "-name", f"guest={devices.escape(spec.vm_id)},debug-threads=on",
        "-uuid", devices.checked(spec.uuid),
        "-nodefaults", "-no-user-config",
        "-display", "none",
        "-msg", "timestamp=on,guest-name=on",
        "-sandbox", _SANDBOX,
        *_machine(spec),
        *_cpu(spec, version),
        *_clock(spec),
        *devices.firmware(spec),
        *devices.control(spec),
        *devices.screen_and_serial(spec),
        *devices.platform(spec),
        *devices.disk(spec),
        *devices.config_drive(spec),
        *devices.nics(spec),
        *spec.args,
    ]
    # fmt: on


def _machine(spec: VMSpec) -> list[str]:
    """Return machine type, memory and what becomes of the machine when the guest ends."""
    is_secure = spec.pflash is not None and spec.pflash.is_secure
    properties = [
        "q35",
        f"smm={'on' if is_secure else 'off'}",
        "usb=off",
        "vmport=off",
        "hpet=off",
        "dump-guest-core=off",
        "memory-backend=ram0",
    ]
    if spec.pflash is not None:
        properties += [f"pflash{unit}=pflash{unit}" for unit in (0, 1)]
    ram = {
        "qom-type": "memory-backend-ram",
        "id": "ram0",
        "size": spec.memory_bytes,
        "merge": spec.hardware.merge,
        "dump": False,
    }
    actions = ACTIONS
    if spec.hardware.watchdog:
        actions += ",watchdog=pause"
    # fmt: off
    argv = [
        "-machine", ",".join(properties),
        "-m", f"{spec.memory_bytes // MIB}M",
        "-object", devices.to_json(ram),
        "-action", actions,
        "-boot", "strict=on",
        # OVMF does not survive S3 with Secure Boot, and a hibernated guest would lose its state
        # with its disk: neither is offered.
        "-global", "ICH9-LPC.disable_s3=1",
        "-global", "ICH9-LPC.disable_s4=1",
    ]
    # fmt: on
    if is_secure:
        # Without it any code in the guest may write the varstore: Secure Boot would mean nothing.
        argv += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    return argv


def _cpu(spec: VMSpec, version: QemuVersion) -> list[str]:
    """Return accelerator, CPU model and topology: one socket, all that a client Windows uses."""
    if spec.accelerator is Accelerator.KVM:
        accel = "kvm"
        # Windows starts a hypervisor of its own if it can, and then each exit costs twice as much.
        model = ["host", "migratable=off", "vmx=off", "svm=off"]
        if spec.hardware.os is OsFamily.WINDOWS:
            model += _HYPERV
    else:
        accel = f"tcg,tb-size={TCG_TB_SIZE_MIB}"
        model = ["max"]
        if not version.at_least(8):
            # QEMU 7.2's TCG corrupts EFLAGS at cmpxchg16b: Linux 6.12 hangs or panics at boot.
            model += ["cx16=off"]
    # fmt: off
    return [
        "-accel", accel,
        "-cpu", ",".join(model),
        "-smp", f"cpus={spec.hardware.vcpus},sockets=1,cores={spec.hardware.vcpus},threads=1",
    ]
    # fmt: on


def _clock(spec: VMSpec) -> list[str]:
    """Return the clock that the guest's operating system expects in its RTC."""
    if spec.hardware.os is OsFamily.LINUX:
        return ["-rtc", "base=utc"]
    argv = ["-rtc", "base=localtime,clock=host,driftfix=slew"]
    if spec.accelerator is Accelerator.KVM:
        argv += ["-global", "kvm-pit.lost_tick_policy=discard"]
    return argv
