from pathlib import Path

import pytest
from fakes.published import VM_ID, make_record, publish

from qemu_node.config.node import Paths
from qemu_node.errors import AS_ROOT, VMNotFoundError
from qemu_node.inventory.vms import find_vm, list_vms

OTHER_ID = "web-abcdefabcdef"
OTHER_ALLOC = "11112222-2222-3333-4444-555555555555"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(run=str(tmp_path / "r"), data=str(tmp_path / "d"))


def publish_two(paths: Paths) -> None:
    publish(paths, make_record(paths))
    other = {"job_name": "blog", "group": "back", "index": 1}
    publish(paths, make_record(paths, OTHER_ID, alloc_id=OTHER_ALLOC, **other))


@pytest.mark.parametrize(
    ("name", "vm_id"),
    [
        (VM_ID, VM_ID),
        ("shop/front[0]/web", VM_ID),
        ("back[1]", OTHER_ID),
        ("back[1]/web", OTHER_ID),
        ("web-a", OTHER_ID),
        ("1111-", None),
        ("11112", OTHER_ID),
        ("111", None),
    ],
)
def test_a_vm_is_found_by_id_name_or_the_beginning_of_an_id(
    paths: Paths, name: str, vm_id: str | None
) -> None:
    publish_two(paths)
    if vm_id is None:
        with pytest.raises(VMNotFoundError):
            find_vm(paths, name)
    else:
        assert find_vm(paths, name).record.vm_id == vm_id


def test_a_name_of_several_vms_lists_them(paths: Paths) -> None:
    publish_two(paths)
    with pytest.raises(VMNotFoundError, match=f"more than one VM: {OTHER_ID}, {VM_ID}"):
        find_vm(paths, "web")


def test_a_damaged_record_is_passed_over(paths: Paths) -> None:
    publish_two(paths)
    damaged = publish(paths, make_record(paths, "old-0123456789ff"))
    damaged.vm_json.write_text("{")
    assert [vm.record.vm_id for vm in list_vms(paths)] == [OTHER_ID, VM_ID]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("wbe", "did you mean web?"),
        (VM_ID[:-1] + "0", f"did you mean {VM_ID}?"),
        ("shop/frnt", "did you mean shop/front[0]/web?"),
        ("xyzzy", "`qemu-node vm list` shows all"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(paths: Paths, name: str, hint: str) -> None:
    publish_two(paths)
    with pytest.raises(VMNotFoundError) as refused:
        find_vm(paths, name)
    assert (refused.value.hint or "").startswith(hint)


@pytest.mark.parametrize(("uid", "hint"), [(0, "qemu-node run JOB"), (1000, AS_ROOT)])
def test_where_no_vm_runs_the_hint_says_how_to_see_or_start_one(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, uid: int, hint: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    with pytest.raises(VMNotFoundError) as refused:
        find_vm(paths, "web")
    assert hint in (refused.value.hint or "")
