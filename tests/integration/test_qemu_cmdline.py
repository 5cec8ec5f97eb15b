"""The product's command lines under the installed QEMU, whose CPUs mostly do not run."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.real_vm import UNPRIVILEGED_UID, RealVM, make_vm_directory, prepare, running
from fakes.specs import CASES, EVERY_SWITCH, case_name, make_spec
from msgspec import structs

from qemu_node.config.node import QemuConfig
from qemu_node.qemu.accel.qemubinary import choose_aio
from qemu_node.qemu.firmware import Firmware, find_firmware
from qemu_node.qemu.overhead import overhead_bytes
from qemu_node.qemu.spec import (
    Accelerator,
    BaseImage,
    DiskAio,
    FirmwareMode,
    OsFamily,
    UserNic,
    VMSpec,
)
from qemu_node.qmp.connection import QmpConnection
from qemu_node.units import MIB

pytestmark = pytest.mark.needs_qemu

_TIMEOUT_S = 120.0
_PAUSED = ("-S",)
_HOSTILE = (
    "a,b=c",
    ",readonly=off,file=passwd",
    "quote\"d 'and' back\\slash",
    "{}[]:%s$HOME`id`",
    "ünï çødé 🦆",
    "x" * 120,
    " leading and trailing ",
)

Reaches = Callable[[], bool]


def _firmware(mode: FirmwareMode) -> Firmware | None:
    return find_firmware(mode, [Path(directory) for directory in QemuConfig().firmware_dirs])


def _prepared(
    os_family: OsFamily = OsFamily.LINUX,
    mode: FirmwareMode = FirmwareMode.SECURE_BOOT,
    accelerator: Accelerator = Accelerator.TCG,
    *,
    name: str = "vm",
    args: tuple[str, ...] = _PAUSED,
    aio: DiskAio = DiskAio.THREADS,
) -> tuple[VMSpec, Path]:
    directory = make_vm_directory(name)
    spec = make_spec(os_family, mode, accelerator, args=args, aio=aio)
    return prepare(spec, directory, _firmware(mode)), directory


async def _connect(vm: RealVM, name: str = "qmp") -> QmpConnection:
    try:
        return await QmpConnection.connect(vm.run / f"{name}.sock", timeout_s=60)
    except Exception as exc:
        pytest.fail(f"{exc}: {vm.stderr()}")


async def _until(reaches: Reaches, vm: RealVM) -> None:
    async with asyncio.timeout(_TIMEOUT_S):
        while not reaches():
            assert vm.child.exit_status() is None, vm.stderr()
            await asyncio.sleep(0.1)


def _kvm_needs_kvm() -> list[object]:
    return [
        pytest.param(
            *case,
            marks=[pytest.mark.needs_kvm] if case[2] is Accelerator.KVM else [],
            id=case_name(*case),
        )
        for case in CASES
    ]


@pytest.mark.parametrize(("os_family", "mode", "accelerator"), _kvm_needs_kvm())
async def test_every_combination_starts_and_answers_on_each_monitor(
    os_family: OsFamily, mode: FirmwareMode, accelerator: Accelerator
) -> None:
    spec, directory = _prepared(os_family, mode, accelerator)
    spec = replace(spec, hardware=structs.replace(spec.hardware, **EVERY_SWITCH))
    async with running(spec, directory) as vm:
        # All at once: no client keeps another from its VM.
        clients = [await _connect(vm, name) for name in ("qmp", "monitor", "console")]
        for qmp in clients:
            assert (await qmp.execute("query-status"))["status"] == "prelaunch"
            await qmp.close()
        # One after the other on one of them.
        await (await _connect(vm, "monitor")).close()
        # A warning on the product's own flags is a flag that the next QEMU drops.
        assert vm.stderr() == ""


@pytest.mark.parametrize(
    ("mode", "is_secure"), [(FirmwareMode.SECURE_BOOT, True), (FirmwareMode.UEFI, False)]
)
async def test_flash_is_writable_by_firmware_only_under_secure_boot(
    mode: FirmwareMode, is_secure: bool
) -> None:
    spec, directory = _prepared(mode=mode)
    async with running(spec, directory) as vm:
        qmp = await _connect(vm)
        for unit in (0, 1):
            where = {"path": f"/machine/system.flash{unit}", "property": "secure"}
            assert await qmp.execute("qom-get", where) is is_secure
        await qmp.close()


def _status(vm: RealVM) -> dict[str, str]:
    """Return the fields of /proc/PID/status."""
    text = Path(f"/proc/{vm.child.process.pid}/status").read_text()
    return {
        key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }


async def test_qemu_has_no_rights_to_lose() -> None:
    spec, directory = _prepared()
    async with running(spec, directory) as vm:
        await (await _connect(vm)).close()
        status = _status(vm)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        if UNPRIVILEGED_UID is not None:
            assert set(status["Uid"].split()) == {str(UNPRIVILEGED_UID)}
            assert status["Groups"].split() == []
            assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}


@pytest.mark.parametrize("text", _HOSTILE)
async def test_hostile_string_is_only_a_name(text: str) -> None:
    spec, directory = _prepared(name=text)
    [nic] = spec.nics
    spec = replace(spec, vm_id=text, nics=(UserNic(mac=nic.mac, hostname=text, forwards=()),))
    async with running(spec, directory) as vm:
        qmp = await _connect(vm)
        assert (await qmp.execute("query-name"))["name"] == text
        nodes = {
            node["node-name"]: node["file"] for node in await qmp.execute("query-named-block-nodes")
        }
        assert nodes["pflash1"] == str(directory / "varstore.fd")
        assert (directory / "serial.log").exists()
        assert spec.vnc_socket.is_socket()
        assert len(await qmp.execute("query-block")) == 4  # two flashes, disk, CD
        await qmp.close()


async def test_base_passed_as_descriptor_needs_no_right_to_its_path() -> None:
    spec, directory = _prepared()
    assert spec.base is not None
    secret = directory.parent / "root-only"
    secret.mkdir(mode=0o700)
    base = secret / "base.raw"
    base.touch()
    os.truncate(base, 1 << 30)
    fd = os.open(base, os.O_RDONLY | os.O_CLOEXEC)
    try:
        spec = replace(spec, base=BaseImage(path=base, is_qcow2=False, fd=fd))
        async with running(spec, directory) as vm:
            qmp = await _connect(vm)
            [disk] = [
                device for device in await qmp.execute("query-block") if "hd0" in device["qdev"]
            ]
            assert disk["inserted"]["backing_file_depth"] == 1
            await qmp.close()
    finally:
        os.close(fd)


async def test_two_vms_share_one_base_at_a_time() -> None:
    first, first_directory = _prepared(name="first")
    second, second_directory = _prepared(name="second")
    second = replace(second, base=first.base)
    first_directory.chmod(0o755)
    async with running(first, first_directory) as one, running(second, second_directory) as two:
        await (await _connect(one)).close()
        await (await _connect(two)).close()


async def test_firmware_reaches_the_serial_port_and_its_log_whoever_listens() -> None:
    spec, directory = _prepared(args=(), aio=choose_aio())
    async with running(spec, directory) as vm:
        reader, writer = await asyncio.open_unix_connection(vm.run / "serial.sock")
        async with asyncio.timeout(_TIMEOUT_S):
            assert await reader.read(1) != b""
        writer.close()
        await writer.wait_closed()
        # What comes after the only client went is in the log all the same, and another gets in.
        seen_bytes = _size(spec.serial_log)
        await _until(lambda: _size(spec.serial_log) > seen_bytes, vm)
        again, writer = await asyncio.open_unix_connection(vm.run / "serial.sock")
        writer.write(b"\r")
        async with asyncio.timeout(_TIMEOUT_S):
            assert await again.read(1) != b""
        writer.close()
        await writer.wait_closed()
        assert _anonymous_beside_ram(vm) <= overhead_bytes(
            spec.memory_bytes,
            accelerator=spec.accelerator,
            vcpus=spec.hardware.vcpus,
            firmware=FirmwareMode.SECURE_BOOT,
        )


def _size(path: Path) -> int:
    return path.stat().st_size


def _anonymous_beside_ram(vm: RealVM) -> int:
    """Return QEMU's anonymous memory without the mapping of guest RAM, known by its size."""
    total = size = 0
    for line in Path(f"/proc/{vm.child.process.pid}/smaps").read_text().splitlines():
        key, _, rest = line.partition(":")
        if key == "Size":
            size = int(rest.split()[0]) * 1024
        elif key == "Anonymous" and abs(size - vm.spec.memory_bytes) > MIB // 16:
            total += int(rest.split()[0]) * 1024
    assert total > MIB
    return total


async def test_qemu_that_refuses_to_start_leaves_its_words() -> None:
    spec, directory = _prepared(args=("-device", "no-such-device"))
    async with running(spec, directory) as vm:
        assert await vm.wait() == 1
        assert "no-such-device" in vm.stderr()
