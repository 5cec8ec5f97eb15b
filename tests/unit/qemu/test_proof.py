import os
from pathlib import Path

import pytest

from qemu_node.errors import HostError, MissingPartError
from qemu_node.qemu import proof
from qemu_node.qemu.probe import QemuBinary
from qemu_node.qemu.proof import ProofGuest, choose_accelerator, prove_accelerator
from qemu_node.qemu.spec import Accelerator, QemuVersion

_KVM_WORDS = "QEMU was killed by SIGABRT: error: failed to set MSR 0x10a"


class Host:
    """Stands in for the guests of a proof: says how each accelerator's end, and counts them."""

    def __init__(self) -> None:
        self.problems: dict[Accelerator, tuple[str | None, bool]] = {
            Accelerator.KVM: (None, True),
            Accelerator.TCG: (None, True),
        }
        self.started: list[Accelerator] = []

    async def run(
        self, accelerator: Accelerator, _guest: ProofGuest, _uid: int | None
    ) -> tuple[str | None, bool]:
        self.started.append(accelerator)
        return self.problems[accelerator]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(proof, "_run", host.run)
    device = tmp_path / "kvm"
    device.touch(mode=0o666)
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
        cache=tmp_path / "proof.json",
        uid=None,
        kvm_gid=None,
    )


def _touch_upgrade(guest: ProofGuest) -> None:
    Path(guest.qemu.path).write_text("upgraded")


def _write_cache(guest: ProofGuest, text: str) -> None:
    assert guest.cache is not None
    guest.cache.write_text(text)


async def test_kvm_that_runs_guests_is_chosen_without_trying_tcg(
    host: Host, guest: ProofGuest
) -> None:
    choice = await choose_accelerator("auto", guest)
    assert (choice.accelerator, choice.kvm_problem) == (Accelerator.KVM, None)
    assert host.started == [Accelerator.KVM]


async def test_tcg_is_chosen_with_what_is_wrong_with_kvm(host: Host, guest: ProofGuest) -> None:
    host.problems[Accelerator.KVM] = (_KVM_WORDS, True)
    choice = await choose_accelerator("auto", guest)
    assert choice.accelerator is Accelerator.TCG
    assert choice.kvm_problem is not None
    assert choice.kvm_problem.endswith(f"exists but does not run guests: {_KVM_WORDS}")


async def test_tcg_that_was_asked_for_leaves_kvm_alone(host: Host, guest: ProofGuest) -> None:
    choice = await choose_accelerator("tcg", guest)
    assert (choice.accelerator, choice.kvm_problem) == (Accelerator.TCG, None)
    assert host.started == [Accelerator.TCG]


async def test_kvm_that_was_asked_for_is_not_replaced(host: Host, guest: ProofGuest) -> None:
    host.problems[Accelerator.KVM] = (_KVM_WORDS, True)
    with pytest.raises(MissingPartError, match="failed to set MSR"):
        await choose_accelerator("kvm", guest)


async def test_host_on_which_nothing_runs_says_why(host: Host, guest: ProofGuest) -> None:
    host.problems = dict.fromkeys(Accelerator, ("QEMU ended with exit code 1: no memory", True))
    with pytest.raises(MissingPartError, match=r"TCG does not run guests: .*no memory"):
        await choose_accelerator("auto", guest)


async def test_absent_kvm_needs_no_guest_to_be_refuted(
    host: Host, guest: ProofGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "KVM_DEVICE", tmp_path / "absent")
    answer = await prove_accelerator(Accelerator.KVM, guest)
    assert not answer.works
    assert "does not exist" in answer.detail
    assert host.started == []


async def test_permission_is_told_apart_from_failure(
    host: Host, guest: ProofGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "_may_open", lambda *_: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    answer = await prove_accelerator(Accelerator.KVM, guest)
    assert "VMs may not open it" in answer.detail
    assert host.started == []


async def test_root_tells_whether_permission_would_help(
    host: Host, guest: ProofGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "_may_open", lambda *_: False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    answer = await prove_accelerator(Accelerator.KVM, guest)
    assert not answer.works
    assert "VMs may not open it" in answer.detail
    host.problems[Accelerator.KVM] = (_KVM_WORDS, True)
    _touch_upgrade(guest)
    answer = await prove_accelerator(Accelerator.KVM, guest)
    assert "does not run guests" in answer.detail


async def test_outcome_is_remembered_until_qemu_changes(host: Host, guest: ProofGuest) -> None:
    first = await prove_accelerator(Accelerator.KVM, guest)
    assert await prove_accelerator(Accelerator.KVM, guest) == first
    assert len(host.started) == 1
    _touch_upgrade(guest)
    await prove_accelerator(Accelerator.KVM, guest)
    assert len(host.started) == 2


async def test_silence_on_a_busy_host_is_asked_again(host: Host, guest: ProofGuest) -> None:
    host.problems[Accelerator.TCG] = ("its firmware said nothing within 90 s", False)
    assert not (await prove_accelerator(Accelerator.TCG, guest)).works
    host.problems[Accelerator.TCG] = (None, True)
    assert (await prove_accelerator(Accelerator.TCG, guest)).works


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kvm": 1}', '{"tcg": {"key": 1}}'])
async def test_broken_cache_is_as_good_as_none(host: Host, guest: ProofGuest, text: str) -> None:
    _write_cache(guest, text)
    assert (await prove_accelerator(Accelerator.TCG, guest)).works
    assert host.started == [Accelerator.TCG]


async def test_cache_that_cannot_be_written_keeps_no_answer_back(
    host: Host, guest: ProofGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise HostError("cannot write proof.json: No space left on device")

    monkeypatch.setattr(proof, "write_atomic", refuse)
    assert (await prove_accelerator(Accelerator.TCG, guest)).works
    assert host.started == [Accelerator.TCG]
