import os
from pathlib import Path

import pytest

from qemu_node.qemu.accel import proof
from qemu_node.qemu.accel.proof import ProofGuest, permission_problem, proof_key, prove
from qemu_node.qemu.accel.qemubinary import QemuBinary
from qemu_node.qemu.spec import Accelerator, QemuVersion

_KVM_WORDS = "QEMU was killed by SIGABRT: error: failed to set MSR 0x10a"


class Host:
    """Stands in for the guests of a proof: says how each accelerator's end, and counts them."""

    def __init__(self) -> None:
        self.words: dict[Accelerator, str] = {}
        self.started: list[Accelerator] = []

    async def run(
        self, accelerator: Accelerator, _guest: ProofGuest, _uid: int | None
    ) -> str | None:
        self.started.append(accelerator)
        return self.words.get(accelerator)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(proof, "_run", host.run)
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o666)
    monkeypatch.setattr(proof, "KVM_DEVICE", device)
    return host


@pytest.fixture
def guest(tmp_path: Path) -> ProofGuest:
    binary = tmp_path / "qemu-system-x86_64"
    binary.touch()
    return ProofGuest(
        qemu=QemuBinary(path=str(binary), version=QemuVersion(major=10, minor=0, micro=13)),
        firmware=None,
        work_dir=tmp_path,
        uid=None,
        kvm_gid=None,
    )


async def test_a_broken_kvm_is_one_sentence_and_qemus_words_apart(
    host: Host, guest: ProofGuest
) -> None:
    host.words[Accelerator.KVM] = _KVM_WORDS
    answer = await prove(Accelerator.KVM, guest)
    assert not answer.works
    assert answer.problem.endswith("/kvm exists but does not run guests")
    assert answer.detail == _KVM_WORDS


async def test_absent_kvm_needs_no_guest_to_be_refuted(
    host: Host, guest: ProofGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "KVM_DEVICE", tmp_path / "absent")
    answer = await prove(Accelerator.KVM, guest)
    assert not answer.works
    assert "does not exist" in answer.problem
    assert host.started == []


async def test_permission_is_told_apart_from_failure(
    host: Host, guest: ProofGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "_may_open", lambda *_: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    answer = await prove(Accelerator.KVM, guest)
    assert "VMs may not open it" in answer.problem
    assert host.started == []


@pytest.mark.parametrize(
    ("mode", "gid", "uid", "advice"),
    [
        (0o660, 104, None, "usermod -aG kvm"),
        (0o600, 104, None, "give it to group kvm"),
        (0o660, 0, None, "give it to group kvm"),
        (0o660, 104, 200_000, "give it to group kvm"),
    ],
)
def test_a_user_outside_the_devices_group_is_told_to_join_it(
    mode: int, gid: int, uid: int | None, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "_group_name", lambda _: "kvm")
    assert advice in permission_problem(mode, gid, uid)


async def test_root_tells_whether_permission_would_help(
    host: Host, guest: ProofGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "_may_open", lambda *_: False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    answer = await prove(Accelerator.KVM, guest)
    assert not answer.works
    assert "VMs may not open it" in answer.problem
    host.words[Accelerator.KVM] = _KVM_WORDS
    answer = await prove(Accelerator.KVM, guest)
    assert "does not run guests" in answer.problem


async def test_a_proof_holds_for_one_qemu_and_one_device(
    host: Host, guest: ProofGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {proof_key(guest)}
    Path(guest.qemu.path).write_text("upgraded")
    keys.add(proof_key(guest))
    proof.KVM_DEVICE.chmod(0o600)
    keys.add(proof_key(guest))
    proof.KVM_DEVICE.unlink()
    keys.add(proof_key(guest))
    assert len(keys) == 4
