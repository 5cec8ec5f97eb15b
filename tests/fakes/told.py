"""The product's own start without a QEMU; records what QEMU and the node are told."""

import os
from pathlib import Path
from typing import Any, cast

import pytest

from fakes.firmware import FirmwareHost
from fakes.specs import QEMU_10_0
from qemu_node.config.node import DiskConfig, NodeConfig, Paths, QemuConfig
from qemu_node.host.process.command import Child
from qemu_node.host.process.identity import identify
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.openimage import CachedImage
from qemu_node.net.port.tap import Tap
from qemu_node.net.portspec import PortSpec
from qemu_node.qemu.accel.qemubinary import QemuBinary
from qemu_node.qemu.spec import Accelerator, DiskAio
from qemu_node.qmp.connection import QmpConnection
from qemu_node.units import GIB, MIB
from qemu_node.vm.admission import Admission
from qemu_node.vm.hypervisor import Hypervisor
from qemu_node.vm.services import NodeServices, Rights
from qemu_node.vm.start import qemuprocess, vmfiles
from qemu_node.vm.start.launch import launch
from qemu_node.vm.start.request import VMRequest


class ToldStart:
    """Starts VMs on a node that only records what it is told."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Use directories below `root`, whose path is short enough for sockets."""
        self.told: list[str] = []
        self.alloc_dir = root / "alloc"
        """Of the one task that there is, `web`."""
        (self.alloc_dir / "web").mkdir(parents=True)
        self._image = root / "image.raw"
        self._image.touch()
        os.truncate(self._image, 1 * MIB)
        firmware = FirmwareHost(root)
        firmware.describe_debian()
        monkeypatch.setattr(qemuprocess, "start_qemu", self._start_qemu)
        monkeypatch.setattr(qemuprocess, "greet", self._greet)
        monkeypatch.setattr(vmfiles, "write_overlay", self._write_overlay)
        self.node = cast(
            "NodeServices",
            _Fake(
                config=NodeConfig(
                    paths=Paths(run=str(root / "r"), data=str(root / "d")),
                    qemu=QemuConfig(
                        allow_args=("-smbios .*",), firmware_dirs=(str(firmware.descriptors),)
                    ),
                    disk=DiskConfig(reserve="0%"),
                ),
                rights=Rights(is_root=False, shared_gid=None, kvm_gid=None),
                hypervisor=self._hypervisor,
                images=_Fake(get=self._get_image),
                keeper=_Fake(make_room=lambda *_: None),
                network=_Fake(
                    attach=self._attach,
                    detach=_nothing,
                    guard_host=_nothing,
                    unguard_host=_nothing,
                ),
            ),
        )

    async def start(self, request: VMRequest) -> str:
        """Start a VM and return all that was told, as text."""
        self.told.clear()
        launched = await launch(
            request, self.node, tell=lambda *_: None, admission=Admission(lambda: 0)
        )
        self.told.append(repr(launched.state))
        launched.directory.remove()
        launched.lock.release()
        return "\n".join(self.told)

    async def _hypervisor(self) -> Hypervisor:
        return Hypervisor(
            binary=QemuBinary(path="qemu", version=QEMU_10_0),
            accelerator=Accelerator.TCG,
            kvm_problem=None,
            aio=DiskAio.IO_URING,
        )

    async def _get_image(self, source: str, **wish: object) -> CachedImage:
        del wish["on_progress"]
        self.told.append(f"image {source} {wish}")
        return CachedImage(
            path=self._image,
            fd=os.open(self._image, os.O_RDONLY | os.O_CLOEXEC),
            format=ImageFormat.RAW,
            virtual_size_bytes=1 * GIB,
            origin=source,
            digest=None,
        )

    def _write_overlay(self, path: Path, *, virtual_size_bytes: int, **_: object) -> None:
        self.told.append(f"disk of {virtual_size_bytes} bytes")

    async def _attach(self, ports: list[PortSpec]) -> object:
        self.told += map(repr, ports)
        taps = [
            Tap(ifname=port.ifname, ifindex=1, fds=tuple(range(port.queues)), vhost_fds=())
            for port in ports
        ]
        return _Fake(taps=taps, all_fds=[], close=_nothing)

    async def _start_qemu(self, argv: list[str], **_: object) -> Child:
        self.told += argv
        own = identify(os.getpid())
        assert own is not None
        return cast("Child", _Fake(process=own, exit_status=lambda: None))

    async def _greet(self, *_: object) -> QmpConnection:
        return cast("QmpConnection", _Fake(close=_nothing))


class _Fake:
    """An object with the given attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


async def _nothing(*_: object) -> None:
    pass
