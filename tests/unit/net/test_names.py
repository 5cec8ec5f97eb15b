import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.net.names import IFNAME_MAX_BYTES, TAP_NAME, TAP_PREFIX, tap_name


@given(st.text(max_size=40), st.integers(0, 255))
def test_a_name_fits_the_kernel_and_the_prefix_that_units_match(vm_id: str, index: int) -> None:
    name = tap_name(vm_id, index)
    assert len(name.encode()) <= IFNAME_MAX_BYTES
    assert name.startswith(TAP_PREFIX)
    assert TAP_NAME.fullmatch(name)
    assert name == tap_name(vm_id, index)


def test_vms_and_their_nics_have_names_of_their_own() -> None:
    names = {tap_name(f"web-{vm:012x}", nic) for vm in range(200) for nic in range(8)}
    assert len(names) == 1600


@pytest.mark.parametrize("index", [-1, 256])
def test_an_index_that_would_make_the_name_longer_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="index"):
        tap_name("web-0123456789ab", index)
