import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.errors import JobError
from qemu_node.qemu.overhead import MIN_GUEST_RAM_BYTES, guest_memory_bytes, overhead_bytes
from qemu_node.qemu.spec import Accelerator, FirmwareMode
from qemu_node.units import GIB, MIB, TIB


@settings(max_examples=200)
@given(
    task_memory_bytes=st.integers(512 * MIB, 4 * TIB),
    accelerator=st.sampled_from(Accelerator),
    vcpus=st.integers(1, 16),
    firmware=st.sampled_from(FirmwareMode),
)
def test_guest_ram_and_overhead_fit_the_tasks_memory(
    task_memory_bytes: int, accelerator: Accelerator, vcpus: int, firmware: FirmwareMode
) -> None:
    overhead = overhead_bytes(
        task_memory_bytes, accelerator=accelerator, vcpus=vcpus, firmware=firmware
    )
    guest = guest_memory_bytes(
        task_memory_bytes, accelerator=accelerator, vcpus=vcpus, firmware=firmware
    )
    assert guest + overhead <= task_memory_bytes < guest + overhead + 2 * MIB
    assert guest % (2 * MIB) == 0
    assert guest >= MIN_GUEST_RAM_BYTES


# Anonymous memory beside guest RAM, measured; see the module.
@pytest.mark.parametrize(
    ("vcpus", "memory_bytes", "firmware", "measured_mib"),
    [
        (1, 512 * MIB, FirmwareMode.BIOS, 43 + 62),
        (2, 512 * MIB, FirmwareMode.UEFI, 49 + 62),
        (4, 512 * MIB, FirmwareMode.UEFI, 69 + 62),
        (2, 2 * GIB, FirmwareMode.BIOS, 44 + 58),
    ],
)
def test_bound_leaves_a_quarter_above_what_was_measured(
    vcpus: int, memory_bytes: int, firmware: FirmwareMode, measured_mib: int
) -> None:
    bound = overhead_bytes(
        memory_bytes, accelerator=Accelerator.TCG, vcpus=vcpus, firmware=firmware
    )
    assert bound >= measured_mib * MIB * 5 // 4


def test_tcg_needs_more_than_kvm() -> None:
    kvm, tcg = (
        overhead_bytes(GIB, accelerator=accelerator, vcpus=2, firmware=FirmwareMode.SECURE_BOOT)
        for accelerator in (Accelerator.KVM, Accelerator.TCG)
    )
    assert tcg > kvm + 64 * MIB


def test_too_little_memory_is_refused_with_the_numbers() -> None:
    with pytest.raises(JobError, match=r"memory of 128\.0 MiB is too little.*QEMU may use") as info:
        guest_memory_bytes(
            128 * MIB, accelerator=Accelerator.KVM, vcpus=1, firmware=FirmwareMode.UEFI
        )
    assert info.value.hint is not None
