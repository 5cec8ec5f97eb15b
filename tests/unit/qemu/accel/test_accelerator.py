from collections import Counter
from pathlib import Path

import pytest

from qemu_node.errors import HostError, MissingPartError
from qemu_node.qemu.accel import accelerator
from qemu_node.qemu.accel.accelerator import (
    RETRY_FIRST_S,
    RETRY_MAX_S,
    AcceleratorChoice,
    ProofMemory,
    choose_accelerator,
)
from qemu_node.qemu.accel.proof import AcceleratorProof, ProofGuest
from qemu_node.qemu.accel.qemubinary import QemuBinary
from qemu_node.qemu.spec import Accelerator, QemuVersion

KVM, TCG = Accelerator.KVM, Accelerator.TCG
NO_MEMORY = "QEMU ended with exit code 1: Cannot allocate memory"


class Host:
    """A host whose accelerators can break and be repaired, and whose clock is ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken: dict[Accelerator, str] = {}
        self.tried: Counter[Accelerator] = Counter()
        self.key = "boot 1"
        self.now = 1000.0
        self.restart()

    def restart(self) -> None:
        """Begin with what the disk has, as a new driver does."""
        self.memory = ProofMemory(self.path)

    async def prove(self, accelerator: Accelerator, _guest: ProofGuest) -> AcceleratorProof:
        self.tried[accelerator] += 1
        detail = self.broken.get(accelerator, "")
        return AcceleratorProof(
            accelerator=accelerator,
            works=not detail,
            problem=f"{accelerator.value} does not run guests" if detail else "",
            detail=detail,
        )

    async def choose(self) -> AcceleratorChoice:
        guest = ProofGuest(
            qemu=QemuBinary(path="/qemu", version=QemuVersion(major=10, minor=0)),
            firmware=None,
            work_dir=self.path.parent,
            uid=None,
            kvm_gid=None,
        )
        return await choose_accelerator("auto", guest, self.memory)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path / "proofs.json")
    monkeypatch.setattr(accelerator, "prove", host.prove)
    monkeypatch.setattr(accelerator, "proof_key", lambda _guest: host.key)
    monkeypatch.setattr("qemu_node.qemu.accel.accelerator.time.monotonic", lambda: host.now)
    return host


async def test_kvm_that_runs_guests_is_chosen_without_trying_tcg(host: Host) -> None:
    assert await host.choose() == AcceleratorChoice(accelerator=KVM)
    assert host.tried == {KVM: 1}


async def test_tcg_is_chosen_with_what_is_wrong_with_kvm(host: Host) -> None:
    host.broken[KVM] = NO_MEMORY
    choice = await host.choose()
    assert choice.accelerator is TCG
    assert (choice.kvm_problem, choice.kvm_detail) == ("kvm does not run guests", NO_MEMORY)
    assert not choice.is_kvm_lost


@pytest.mark.parametrize(("wanted", "tried"), [("tcg", TCG), ("kvm", KVM)])
async def test_the_accelerator_that_was_asked_for_is_not_replaced(
    host: Host, wanted: str, tried: Accelerator
) -> None:
    host.broken = {KVM: NO_MEMORY, TCG: NO_MEMORY}
    guest = ProofGuest(
        qemu=QemuBinary(path="/qemu", version=QemuVersion(major=10, minor=0)),
        firmware=None,
        work_dir=host.path.parent,
        uid=None,
        kvm_gid=None,
    )
    with pytest.raises(MissingPartError, match=r"does not run guests: .*Cannot allocate memory"):
        await choose_accelerator(wanted, guest, host.memory)  # type: ignore[arg-type]
    assert host.tried == {tried: 1}


async def test_a_success_is_remembered_over_restarts_while_the_host_stays_the_same(
    host: Host,
) -> None:
    for _ in range(3):
        host.restart()
        assert (await host.choose()).accelerator is KVM
    assert host.tried[KVM] == 1
    host.key = "boot 2"
    await host.choose()
    assert host.tried[KVM] == 2


async def test_a_failure_is_not_remembered_by_the_next_driver(host: Host) -> None:
    host.broken[KVM] = NO_MEMORY
    assert (await host.choose()).accelerator is TCG
    host.broken.clear()
    host.restart()
    assert (await host.choose()).accelerator is KVM


async def test_a_failure_is_tried_again_more_and_more_rarely(host: Host) -> None:
    host.broken[KVM] = NO_MEMORY
    pause_s, last = RETRY_FIRST_S, 0
    for _ in range(12):
        await host.choose()
        assert host.tried[KVM] == last + 1
        host.now += pause_s - 1
        await host.choose()
        assert host.tried[KVM] == last + 1, "too early"
        host.now += 1
        last, pause_s = host.tried[KVM], min(2 * pause_s, RETRY_MAX_S)
    # What has changed is tried at once.
    host.key = "another QEMU"
    await host.choose()
    assert host.tried[KVM] == last + 1
    host.now += RETRY_FIRST_S
    host.broken.clear()
    assert (await host.choose()).accelerator is KVM


async def test_a_node_that_lost_kvm_knows_it_over_restarts_and_until_it_is_back(
    host: Host,
) -> None:
    await host.choose()
    host.key, host.broken[KVM] = "boot 2", NO_MEMORY
    assert (await host.choose()).is_kvm_lost
    host.restart()
    assert (await host.choose()).is_kvm_lost
    host.now += RETRY_FIRST_S
    host.broken.clear()
    assert await host.choose() == AcceleratorChoice(accelerator=KVM)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"kvm": 1}', '{"tcg": {"key": 1}}', "[" * 100_000]
)
async def test_a_memory_that_cannot_be_read_is_as_good_as_none(host: Host, text: str) -> None:
    host.path.write_text(text)
    assert (await host.choose()).accelerator is KVM
    host.restart()
    await host.choose()
    assert host.tried[KVM] == 1


async def test_failures_that_an_earlier_version_wrote_are_not_believed(host: Host) -> None:
    host.path.write_text(
        f'{{"kvm": {{"key": "{host.key}", "works": false, "detail": "{NO_MEMORY}"}}}}'
    )
    assert (await host.choose()).accelerator is KVM
    assert host.tried[KVM] == 1


async def test_a_memory_that_cannot_be_written_keeps_no_answer_back(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise HostError("cannot write proofs.json: No space left on device")

    monkeypatch.setattr(accelerator, "write_atomic", refuse)
    assert (await host.choose()).accelerator is KVM
