"""The proof that an accelerator runs guests, with the QEMU and the /dev/kvm of this machine."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from fakes.fake_qemu import fake_qemu
from fakes.real_vm import UNPRIVILEGED_UID, make_vm_directory
from integration.vmnode import until

import qemu_node
from qemu_node.config.node import QemuConfig
from qemu_node.host.process import command, identity, pidfd
from qemu_node.qemu.accel import proof
from qemu_node.qemu.accel.accelerator import ProofMemory, choose_accelerator
from qemu_node.qemu.accel.proof import ProofGuest, prove
from qemu_node.qemu.accel.qemubinary import QemuBinary, find_qemu
from qemu_node.qemu.firmware import find_firmware
from qemu_node.qemu.spec import Accelerator, FirmwareMode

pytestmark = pytest.mark.needs_qemu


@pytest.fixture
def directory() -> Generator[Path]:
    directory = make_vm_directory("proof")
    yield directory
    shutil.rmtree(directory.parent)


def _guest(
    qemu: QemuBinary, directory: Path, mode: FirmwareMode = FirmwareMode.SECURE_BOOT
) -> ProofGuest:
    return ProofGuest(
        qemu=qemu,
        firmware=find_firmware(mode, [Path(name) for name in QemuConfig().firmware_dirs]),
        work_dir=directory,
        uid=UNPRIVILEGED_UID,
        kvm_gid=None,
    )


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.mark.parametrize("mode", [FirmwareMode.SECURE_BOOT, FirmwareMode.BIOS])
async def test_tcg_is_proven_once_and_leaves_nothing_behind(
    directory: Path, mode: FirmwareMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = _guest(await find_qemu("qemu-system-x86_64"), directory, mode)
    memory = ProofMemory(directory / "proofs.json")
    first = await choose_accelerator("tcg", guest, memory)
    assert _names(directory) == ["proofs.json"]

    async def fail(*_: object, **__: object) -> None:
        pytest.fail("a guest was started again")

    monkeypatch.setattr(proof, "start_qemu", fail)
    assert await choose_accelerator("tcg", guest, memory) == first


async def test_kvm_that_is_there_and_runs_no_guest_is_reported_in_qemus_words(
    directory: Path,
) -> None:
    if not os.access("/dev/kvm", os.F_OK):
        pytest.skip("this machine has no /dev/kvm")
    guest = _guest(await find_qemu("qemu-system-x86_64"), directory)
    answer = await prove(Accelerator.KVM, guest)
    if answer.works:
        pytest.skip("KVM runs guests here")
    assert answer.problem.startswith("/dev/kvm exists but")
    if "does not run guests" in answer.problem:
        assert "QEMU was killed by SIG" in answer.detail or "QEMU failed with" in answer.detail
    choice = await choose_accelerator("auto", guest, ProofMemory(directory / "proofs.json"))
    assert choice.accelerator is Accelerator.TCG
    assert choice.kvm_problem == answer.problem


_PROVER = """
import asyncio, sys
from pathlib import Path
from qemu_node.qemu.accel.qemubinary import find_qemu
from qemu_node.qemu.accel.proof import ProofGuest, prove
from qemu_node.qemu.spec import Accelerator

async def main():
    uid = int(sys.argv[3]) if sys.argv[3] else None
    guest = ProofGuest(qemu=await find_qemu(sys.argv[1]), firmware=None,
        work_dir=Path(sys.argv[2]), uid=uid, kvm_gid=None)
    await prove(Accelerator.TCG, guest)

asyncio.run(main())
"""


@pytest.mark.parametrize("uid", [None, UNPRIVILEGED_UID])
async def test_the_guest_of_a_proof_does_not_outlive_a_killed_plugin(
    short_tmp_path: Path, uid: int | None
) -> None:
    told = short_tmp_path / "told"
    told.touch()
    told.chmod(0o666)
    program = fake_qemu(short_tmp_path, f"echo $$ >{told}; exec sleep 600")
    source = Path(qemu_node.__file__).parents[1]
    plugin = command.spawn(
        [sys.executable, "-c", _PROVER, program, str(short_tmp_path), str(uid or "")],
        stderr_fd=2,
        env={**command.SAFE_ENV, "PYTHONPATH": str(source)},
    )
    try:
        pid = await until(told.read_text, lambda text: text.endswith("\n"), "guest", 60)
        guest = identity.identify(int(pid))
        assert guest is not None
    finally:
        plugin.kill_group()
    async with asyncio.timeout(60):
        await pidfd.wait_gone(guest)
        await pidfd.wait_gone(plugin.process)
    assert plugin.exit_status() == -signal.SIGKILL


@pytest.mark.needs_kvm
async def test_kvm_that_runs_guests_is_chosen(directory: Path) -> None:
    guest = _guest(await find_qemu("qemu-system-x86_64"), directory)
    choice = await choose_accelerator("auto", guest, ProofMemory(directory / "proofs.json"))
    assert choice.accelerator is Accelerator.KVM
    assert choice.kvm_problem is None
