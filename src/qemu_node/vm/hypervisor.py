"""Finding the QEMU that runs VMs here, and the accelerator it was seen to run a guest under."""

import asyncio
import os
from pathlib import Path

from qemu_node.config.node import Paths, QemuConfig
from qemu_node.errors import HostError, MissingPartError
from qemu_node.qemu.firmware import Firmware, find_firmware
from qemu_node.qemu.probe import choose_aio, find_qemu
from qemu_node.qemu.proof import ProofGuest, choose_accelerator
from qemu_node.qemu.spec import FirmwareMode
from qemu_node.vm.node import Hypervisor


class HypervisorFinder:
    """Finds and proves the hypervisor; again only when QEMU, firmware or kernel have changed."""

    def __init__(
        self, config: QemuConfig, paths: Paths, *, is_root: bool, kvm_gid: int | None
    ) -> None:
        self._config = config
        self._paths = paths
        self._is_root = is_root
        self._kvm_gid = kvm_gid
        self._finding = asyncio.Lock()

    async def find(self) -> Hypervisor:
        """Return the hypervisor. The first time takes as long as a guest's firmware needs.

        Raises:
            MissingPartError: no guest can start here; the message says what is missing.
            HostError: the proof could not be made, as when the disk is full.
        """
        # Two starts at once must not prove the same thing twice.
        async with self._finding:
            binary = await find_qemu(self._config.binary)
            work_dir = self._make_work_dir()
            choice = await choose_accelerator(
                self._config.accelerator,
                ProofGuest(
                    qemu=binary,
                    firmware=self._default_firmware(),
                    work_dir=work_dir,
                    cache=work_dir / "outcome.json",
                    # The first id after those of VMs: no VM shares it.
                    uid=self._config.first_uid + self._config.uid_count if self._is_root else None,
                    kvm_gid=self._kvm_gid,
                ),
            )
        return Hypervisor(
            binary=binary,
            accelerator=choice.accelerator,
            kvm_problem=choice.kvm_problem,
            aio=choose_aio(),
        )

    def _default_firmware(self) -> Firmware | None:
        directories = tuple(Path(directory) for directory in self._config.firmware_dirs)
        try:
            return find_firmware(FirmwareMode.SECURE_BOOT, directories)
        except MissingPartError:
            # Told by the fingerprint; the accelerator is proven with the firmware QEMU carries.
            return None

    def _make_work_dir(self) -> Path:
        work_dir = self._paths.run_dir / "proof"
        try:
            work_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
            if self._is_root:
                os.chown(work_dir, 0, 0)
        except OSError as exc:
            raise HostError(f"cannot make {work_dir}: {exc.strerror}") from exc
        return work_dir
