"""Devices of a VM and the host ends behind them, as QEMU options.

Owns the lean device set of each operating system family and the escaping of values. Does not own
the machine, CPU and clock (`cmdline`).

Every PCI device has a fixed slot, because a guest names its network interface after it: the name
must not change when another device comes or goes. A slot is never given to another kind of device:
VMs live longer than drivers.
"""

import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path

from qemu_node.errors import JobError
from qemu_node.qemu.spec import (
    DiskAio,
    OsFamily,
    PortForward,
    TapNic,
    UserNic,
    VMSpec,
)
from qemu_node.units import MIB

MAX_NICS = 8

_SLOT_VIDEO = 0x01
_SLOT_SCSI = 0x02
_SLOT_SERIAL = 0x03
_SLOT_BALLOON = 0x04
_SLOT_RNG = 0x05
_SLOT_PVPANIC = 0x06
_SLOT_POINTER = 0x07
_SLOT_WATCHDOG = 0x08
_SLOT_FIRST_NIC = 0x10  # to 0x17; 0x1f is the chipset's

FREE_SLOTS = {0x09: "memory", **dict.fromkeys(range(0x18, 0x1C), "root port")}
"""Slots that stay free, each with what it is for.

`memory`: the device by which guest RAM grows and shrinks, to be called `memory0`, with its RAM in
`ram1`. `root port`: q35 plugs nothing into `pcie.0` while the guest runs; a VM that is to take a
device later is started with a pcie-root-port, `port0` to `port3`.
"""

_BASE_FDSET = 1
_MAX_DISK_QUEUES = 4
# qcow2 keeps one 8-byte L2 entry per 64 KiB cluster: 4 MiB cover 32 GiB; the default may take
# 32 MiB per image (docs/qcow2-cache.txt). What a minute did not touch is given back.
_L2_CACHE_BYTES = 4 * MIB
_L2_CACHE_CLEAN_S = 60


def checked(value: str | Path) -> str:
    """Return `value` as text that a command line and JSON can carry.

    Raises:
        JobError: it holds NUL, or bytes that are not UTF-8 (QEMU's JSON parser takes only UTF-8).
    """
    text = str(value)
    try:
        encoded = text.encode()
    except UnicodeEncodeError as exc:
        raise JobError(f"{text!r} is not UTF-8") from exc
    if b"\0" in encoded:
        raise JobError(f"{text!r} holds a NUL character")
    return text


def escape(value: str | Path) -> str:
    """Return `value` for a `key=value,…` option: commas doubled, the only escape QEMU has there."""
    return checked(value).replace(",", ",,")


def to_json(properties: Mapping[str, object]) -> str:
    """Return the JSON form of one option, compact, with text readable in `ps`."""
    return json.dumps(properties, ensure_ascii=False, separators=(",", ":"))


def firmware(spec: VMSpec) -> list[str]:
    """Return the two flash images of UEFI; nothing for SeaBIOS, which QEMU loads by itself."""
    if spec.pflash is None:
        return []
    flash = spec.pflash
    argv: list[str] = []
    for unit, path, is_read_only in ((0, flash.code, True), (1, flash.varstore, False)):
        node = {
            "driver": "raw",
            "node-name": f"pflash{unit}",
            "read-only": is_read_only,
            "file": _file_node(path, is_read_only=is_read_only),
        }
        argv += ["-blockdev", to_json(node)]
    return argv


def control(spec: VMSpec) -> list[str]:
    """Return the QMP monitors. Each serves one client, so each kind of client has its own.

    The clients are the driver, the command and the daemon.
    """
    argv: list[str] = []
    for name, fd in (
        ("qmp", spec.sockets.qmp),
        ("monitor", spec.sockets.monitor),
        ("console", spec.sockets.console),
    ):
        argv += ["-chardev", _listener(name, fd), "-mon", f"chardev={name},mode=control"]
    return argv


def screen_and_serial(spec: VMSpec) -> list[str]:
    """Return the serial port, the screen and a pointer with absolute coordinates."""
    # QEMU writes the log whether or not a client is connected; it never truncates it.
    serial = (
        _listener("serial0", spec.sockets.serial)
        + f",logfile={escape(spec.serial_log)},logappend=on"
    )
    # fmt: off
    argv = [
        "-chardev", serial,
        "-device", to_json({"driver": "isa-serial", "id": "com1", "chardev": "serial0"}),
        # All viewers see the screen; none can disconnect another one (RFB's exclusive flag). Keys
        # wait in a queue that drops silently: with QEMU's 10 ms each it loses what is typed fast.
        "-vnc", f"unix:{escape(spec.vnc_socket)},share=force-shared,key-delay-ms=1",
    ]
    # fmt: on
    if spec.hardware.os is OsFamily.LINUX:
        return [
            *argv,
            *_pci("bochs-display", "video0", _SLOT_VIDEO),
            *_pci("virtio-tablet-pci", "tablet0", _SLOT_POINTER),
        ]
    # Windows has drivers of its own for these; xHCI, unlike UHCI and EHCI, does not poll when idle.
    return [
        *argv,
        *_pci("VGA", "video0", _SLOT_VIDEO, vgamem_mb=16),
        *_pci("qemu-xhci", "usb0", _SLOT_POINTER),
        "-device",
        to_json({"driver": "usb-tablet", "id": "tablet0", "bus": "usb0.0"}),
    ]


def platform(spec: VMSpec) -> list[str]:
    """Return what every guest gets beside disk and network: agent port, entropy, panic report."""
    agent = {
        "driver": "virtserialport",
        "id": "qga0",
        "bus": "serialbus0.0",
        "nr": 1,
        "chardev": "qga",
        "name": "org.qemu.guest_agent.0",
    }
    # fmt: off
    argv = [
        "-chardev", _listener("qga", spec.sockets.qga),
        *_pci("virtio-serial-pci", "serialbus0", _SLOT_SERIAL, max_ports=2),
        "-device", to_json(agent),
        "-object", to_json({"qom-type": "rng-builtin", "id": "rng0"}),
        *_pci("virtio-rng-pci", "rngdev0", _SLOT_RNG, rng="rng0"),
        *_pci("pvpanic-pci", "pvpanic0", _SLOT_PVPANIC),
        # A new generation at every start: the guest reseeds its random generator.
        "-device", to_json({"driver": "vmgenid", "id": "vmgenid0", "guid": "auto"}),
    ]
    # fmt: on
    if spec.hardware.watchdog:
        # It does nothing until a guest's driver starts it. The chipset's own (iTCO) is there in any
        # case, but resets nothing in machine types before pc-q35-8.0.
        argv += _pci("i6300esb", "watchdog0", _SLOT_WATCHDOG)
    if spec.hardware.os is OsFamily.LINUX:
        # Gives pages that the guest frees back to the host. Windows' driver cannot.
        report = {"free-page-reporting": True, "deflate-on-oom": True}
        argv += _pci("virtio-balloon-pci", "balloon0", _SLOT_BALLOON, **report)
    return argv


def disk(spec: VMSpec) -> list[str]:
    """Return the SCSI controller, on a thread of its own, and the VM's disk where it has one.

    The controller is always there: a CD of a Linux guest hangs on it too.
    """
    queues = min(spec.hardware.vcpus, _MAX_DISK_QUEUES)
    # fmt: off
    argv = [
        "-object", to_json({"qom-type": "iothread", "id": "io0"}),
        *_pci("virtio-scsi-pci", "scsi0", _SLOT_SCSI, iothread="io0", num_queues=queues),
    ]
    # fmt: on
    if spec.overlay is None:
        return argv
    overlay: dict[str, object] = {
        **_qcow2_node("disk0"),
        "discard": "unmap",
        "detect-zeroes": "unmap",
        "file": _file_node(spec.overlay, aio=spec.aio) | {"discard": "unmap"},
        # The whole chain is spelled out: QEMU opens no file that an image's header names.
        "backing": _base_node(spec),
    }
    drive = {
        "driver": "scsi-hd",
        "id": "hd0",
        "bus": "scsi0.0",
        "drive": "disk0",
        "bootindex": 1,  # 0 is what QEMU gives a kernel that is booted directly
        "rotation_rate": 1,  # a solid-state disk, by the SCSI standard
        # A full host pauses the guest until there is room; other errors are the guest's to handle.
        "werror": "enospc",
        "rerror": "report",
    }
    if spec.base is not None and spec.base.fd is not None:
        argv += ["-add-fd", f"fd={spec.base.fd},set={_BASE_FDSET}"]
    return [*argv, "-blockdev", to_json(overlay), "-device", to_json(drive)]


def config_drive(spec: VMSpec) -> list[str]:
    """Return the config drive as a CD: on Windows on AHCI, for which its setup has a driver."""
    if spec.config_drive is None:
        return []
    node = {
        "driver": "raw",
        "node-name": "config0",
        "read-only": True,
        "file": _file_node(spec.config_drive, is_read_only=True),
    }
    if spec.hardware.os is OsFamily.LINUX:
        cd = {"driver": "scsi-cd", "bus": "scsi0.0"}
    else:
        cd = {"driver": "ide-cd", "bus": "ide.0"}
    device = cd | {"id": "cd0", "drive": "config0"}
    return ["-blockdev", to_json(node), "-device", to_json(device)]


def nics(spec: VMSpec) -> list[str]:
    """Return the network interfaces, each with its host end."""
    if len(spec.nics) > MAX_NICS:
        raise JobError(f"a VM has at most {MAX_NICS} networks, not {len(spec.nics)}")
    argv: list[str] = []
    for index, nic in enumerate(spec.nics):
        name = f"net{index}"
        # No boot ROM: nothing boots from the network, and it would cost each VM memory.
        properties: dict[str, object] = {"netdev": name, "mac": checked(nic.mac), "romfile": ""}
        if isinstance(nic, TapNic):
            netdev = _tap_netdev(nic, name)
            properties |= _tap_properties(nic)
        else:
            netdev = _user_netdev(nic, name)
        argv += ["-netdev", to_json(netdev)]
        argv += _pci("virtio-net-pci", f"nic{index}", _SLOT_FIRST_NIC + index, **properties)
    return argv


def _tap_netdev(nic: TapNic, name: str) -> dict[str, object]:
    """Return the host end: open descriptors only, so that QEMU needs no right to make a TAP."""
    # Lists even for one: `fd` and `vhostfd` are other options with the same meaning (net/tap.c).
    netdev: dict[str, object] = {"type": "tap", "id": name, "fds": _fd_list(nic.tap_fds)}
    if nic.vhost_fds:
        netdev |= {"vhost": True, "vhostfds": _fd_list(nic.vhost_fds)}
    return netdev


def _fd_list(fds: tuple[int, ...]) -> str:
    return ":".join(map(str, fds))


def _tap_properties(nic: TapNic) -> dict[str, object]:
    properties: dict[str, object] = {}
    if len(nic.tap_fds) > 1:
        # A vector for each queue, one for the control queue and one for changes of configuration.
        properties |= {"mq": True, "vectors": 2 * len(nic.tap_fds) + 2}
    if nic.mtu is not None:
        properties["host_mtu"] = nic.mtu
    return properties


def _user_netdev(nic: UserNic, name: str) -> dict[str, object]:
    netdev: dict[str, object] = {"type": "user", "id": name}
    if nic.hostname:
        netdev["hostname"] = checked(nic.hostname)
    if nic.forwards:
        netdev["hostfwd"] = [{"str": _hostfwd(forward)} for forward in nic.forwards]
    return netdev


def _hostfwd(forward: PortForward) -> str:
    """Return one forward in slirp's notation, which has no escape: only checked parts enter it."""
    try:
        host_ip = ipaddress.IPv4Address(forward.host_ip)
    except ValueError as exc:
        raise JobError(
            f"{forward.host_ip!r} is not an IPv4 address",
            hint="user-mode networking forwards ports of IPv4 addresses only",
        ) from exc
    for port in (forward.host_port, forward.guest_port):
        if not 0 < port < 1 << 16:
            raise JobError(f"{port} is not a TCP port")
    return f"tcp:{host_ip}:{forward.host_port}-:{forward.guest_port}"


def _base_node(spec: VMSpec) -> dict[str, object] | None:
    """Return the read-only image below the overlay: format stated, its own backing cut off."""
    base = spec.base
    if base is None:
        return None
    path = base.path if base.fd is None else Path(f"/dev/fdset/{_BASE_FDSET}")
    file = _file_node(path, is_read_only=True, aio=spec.aio)
    common = {"read-only": True, "file": file}
    if base.is_qcow2:
        return _qcow2_node("base0") | common | {"backing": None}
    return {"driver": "raw", "node-name": "base0"} | common


def _qcow2_node(name: str) -> dict[str, object]:
    # The disk is removed with its VM, so what the guest flushes need not reach stable storage.
    return {
        "driver": "qcow2",
        "node-name": name,
        "cache": {"no-flush": True},
        "l2-cache-size": _L2_CACHE_BYTES,
        "cache-clean-interval": _L2_CACHE_CLEAN_S,
    }


def _file_node(
    path: Path, *, is_read_only: bool = False, aio: DiskAio | None = None
) -> dict[str, object]:
    # With the page cache (no cache.direct): all VMs on one base image share it there.
    node: dict[str, object] = {"driver": "file", "filename": checked(path)}
    if is_read_only:
        node["read-only"] = True
    if aio is not None:
        node |= {"aio": aio.value, "cache": {"no-flush": True}}
    return node


def _pci(driver: str, name: str, slot: int, **properties: object) -> list[str]:
    device = {"driver": driver, "id": name, "bus": "pcie.0", "addr": f"{slot:#04x}"}
    return ["-device", to_json(device | properties)]


def _listener(name: str, fd: int) -> str:
    """Return a chardev on a listening socket of ours: a client never races QEMU's start."""
    return f"socket,id={name},fd={fd},server=on,wait=off"
