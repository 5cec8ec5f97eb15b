"""The QEMU that runs VMs here, and the accelerator it was seen to run a guest under."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass
from pathlib import Path

from qemu_node.config.node import Paths, QemuConfig
from qemu_node.errors import HostError, MissingPartError
from qemu_node.host.concurrency.threads import acquire_in_thread, to_the_end
from qemu_node.host.files.directories import make_directory, open_directory, require_passage
from qemu_node.host.process.users import UserClaim, drop_claim
from qemu_node.qemu.accel.accelerator import AcceleratorChoice, ProofMemory, choose_accelerator
from qemu_node.qemu.accel.proof import ProofGuest
from qemu_node.qemu.accel.qemubinary import QemuBinary, choose_aio, find_qemu
from qemu_node.qemu.firmware import Firmware, find_firmware
from qemu_node.qemu.spec import Accelerator, DiskAio, FirmwareMode

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypervisor(AcceleratorChoice):
    """The QEMU that starts VMs here, and who executes the guests' code."""

    binary: QemuBinary
    aio: DiskAio


class HypervisorFinder:
    """Finds and proves the hypervisor; what failed is tried again by later calls of `look`."""

    def __init__(
        self, config: QemuConfig, paths: Paths, *, is_root: bool, kvm_gid: int | None
    ) -> None:
        self._config = config
        self._paths = paths
        self._is_root = is_root
        self._kvm_gid = kvm_gid
        self._memory = ProofMemory(paths.proofs)
        self._found: Hypervisor | None = None
        self._looking = asyncio.Lock()

    async def find(self) -> Hypervisor:
        """Return the hypervisor for a start, which waits only for the first proof.

        Raises:
            MissingPartError: no guest can start here; the message says what is missing.
            HostError: the proof could not be made, as when the disk is full.
        """
        found = self._found
        if found is None or found.binary != await find_qemu(self._config.binary):
            return await self.look()
        self._require_passage()
        return found

    async def look(self) -> Hypervisor:
        """Return the hypervisor as it is now. Takes as long as a guest's firmware needs at first.

        Raises:
            MissingPartError, HostError: as `find`.
        """
        # Two at once must not prove the same thing twice.
        async with self._looking:
            try:
                self._found, last = await self._look(), self._found
            except BaseException:
                self._found = None
                raise
            _tell(self._found, last)
            return self._found

    async def _look(self) -> Hypervisor:
        binary = await find_qemu(self._config.binary)
        work_dir = self._make_work_dir()
        self._require_passage()
        async with self._proof_user(work_dir) as uid:
            choice = await choose_accelerator(
                self._config.accelerator,
                ProofGuest(
                    qemu=binary,
                    firmware=self._default_firmware(),
                    work_dir=work_dir,
                    uid=uid,
                    kvm_gid=self._kvm_gid,
                ),
                self._memory,
            )
        return Hypervisor(binary=binary, aio=choose_aio(), **asdict(choice))

    @contextlib.asynccontextmanager
    async def _proof_user(self, work_dir: Path) -> AsyncGenerator[int | None]:
        """Give a user that nothing else on this host runs as meanwhile; None without root."""
        if not self._is_root:
            yield None
            return
        claim = await acquire_in_thread(self._claim_user, UserClaim.close, work_dir)
        try:
            yield claim.uid
        finally:
            await to_the_end(_give_up, claim, work_dir)

    def _claim_user(self, work_dir: Path) -> UserClaim:
        first = self._config.first_uid
        # The one after those of VMs may be the first of another node's.
        for uid in range(first + self._config.uid_count, first - 1, -1):
            claim = UserClaim.take(uid, work_dir)
            if claim is not None:
                return claim
        raise HostError("all user ids for VMs are taken", hint="raise qemu.uid_count in node.toml")

    def _require_passage(self) -> None:
        if self._is_root:
            require_passage(self._paths.vm_run_dir, "paths.run")
            require_passage(self._paths.vm_data_dir, "paths.data")

    def _default_firmware(self) -> Firmware | None:
        # A missing one is the fingerprint's to tell: here the firmware that QEMU carries will do.
        with contextlib.suppress(MissingPartError):
            return find_firmware(FirmwareMode.SECURE_BOOT, self._config.firmware_paths)
        return None

    def _make_work_dir(self) -> Path:
        """Make the directory of the proof's guest, and that of the memory."""
        work_dir = self._paths.run_dir / "proof"
        try:
            open_directory(self._paths.run_dir, 0o755)
        except HostError as exc:
            raise HostError(str(exc), hint=exc.hint or self._paths.run_advice) from exc
        open_directory(self._paths.proofs.parent, 0o711)
        make_directory(work_dir, 0o711)
        return work_dir


def _give_up(claim: UserClaim, work_dir: Path) -> None:
    claim.close()
    with contextlib.suppress(OSError):
        drop_claim(claim.uid, work_dir, lambda: None)


def _tell(found: Hypervisor, last: Hypervisor | None) -> None:
    """Log that the node has lost KVM, or has it again."""
    if found.is_kvm_lost and (last is None or not last.is_kvm_lost):
        log.error(
            "KVM ran guests here before and does not now: VMs that start are slow",
            extra={"reason": found.kvm_problem, "detail": found.kvm_detail},
        )
    elif last is not None and last.is_kvm_lost and found.accelerator is Accelerator.KVM:
        log.info("KVM runs guests again")
