"""The difference of two states of the fleet."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.web.fleet.model import MemoryView, VMView, difference, is_of_figures


def vm(vm_id: str = "web-0123456789ab", **more: Any) -> VMView:
    memory = MemoryView(min_bytes=1, max_bytes=2, plugged_bytes=1)
    fields: dict[str, Any] = {
        "vm_id": vm_id,
        "alloc_id": "a",
        "namespace": "default",
        "job": "web",
        "group": "web",
        "task": "vm",
        "state": "running",
        "os": "linux",
        "image": "debian",
        "vcpus": 1,
        "created_at": "2026-01-01T00:00:00Z",
        "memory": memory,
    }
    return VMView(**(fields | more))


def test_a_new_vm_comes_whole() -> None:
    new = vm()
    delta = difference({}, {new.vm_id: new})
    assert delta.changed == {new.vm_id: msgspec.to_builtins(new)}


def test_only_what_changed_of_a_vm_is_told() -> None:
    old, new = vm(cpu_pct=1.0, addresses=("10.0.0.1",)), vm(cpu_pct=2.0)
    delta = difference({old.vm_id: old}, {new.vm_id: new})
    assert delta.changed == {new.vm_id: {"cpu_pct": 2.0, "addresses": None}}
    assert delta.gone == ()


def test_a_vm_that_is_gone_is_named() -> None:
    old = vm()
    assert difference({old.vm_id: old}, {}).gone == (old.vm_id,)


def test_a_change_of_figures_is_told_from_one_of_state() -> None:
    memory = MemoryView(min_bytes=1, max_bytes=2, plugged_bytes=1, pss_bytes=7)
    assert is_of_figures(vm(), vm(cpu_pct=1.0, memory=memory, drops={"address": 1}))
    assert not is_of_figures(vm(), vm(cpu_pct=1.0, state="paused"))


_VMS = st.dictionaries(
    st.sampled_from(["a-0123456789ab", "b-0123456789ab", "c-0123456789ab"]),
    st.builds(
        vm,
        cpu_pct=st.none() | st.floats(0, 100),
        viewers=st.integers(0, 3),
        host_name=st.text(max_size=3),
    ),
)


@given(before=_VMS, after=_VMS)
def test_whoever_applies_every_difference_has_the_state(
    before: dict[str, VMView], after: dict[str, VMView]
) -> None:
    delta = difference(before, after)
    held: dict[str, dict[str, Any]] = {k: msgspec.to_builtins(v) for k, v in before.items()}
    for vm_id in delta.gone:
        del held[vm_id]
    for vm_id, members in delta.changed.items():
        merged = {**held.get(vm_id, {}), **members}
        held[vm_id] = {name: value for name, value in merged.items() if value is not None}
    assert held == {k: msgspec.to_builtins(v) for k, v in after.items()}
