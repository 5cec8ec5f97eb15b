import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.vm.names import VM_ID, VM_ID_MAX_BYTES, default_hostname, vm_id, vm_uuid

ALLOC = "3f9c1a7b-e2d0-4c55-8f6e-0123456789ab"


@given(st.text(max_size=200))
def test_any_task_name_gives_an_id_fit_for_a_path_an_option_and_a_host_name(task: str) -> None:
    name = vm_id(ALLOC, task)
    assert VM_ID.fullmatch(name)
    assert len(name.encode()) <= VM_ID_MAX_BYTES


@pytest.mark.parametrize(
    "task", ["web", "Web Server/1", "x" * 120, "größe", "--", "-a-", "a" * 15 + "-b"]
)
def test_awkward_task_names_keep_their_own_id(task: str) -> None:
    assert VM_ID.fullmatch(vm_id(ALLOC, task))
    assert vm_id(ALLOC, task) != vm_id(ALLOC, task + "2")


def test_the_id_stays_over_restarts_and_differs_over_allocations_and_tasks() -> None:
    assert vm_id(ALLOC, "web") == vm_id(ALLOC, "web")
    others = {vm_id(ALLOC, "web"), vm_id(ALLOC, "db"), vm_id(ALLOC[:-1] + "c", "web")}
    assert len(others) == 3


def test_the_uuid_is_a_uuid_of_the_task() -> None:
    assert uuid.UUID(vm_uuid(ALLOC, "web")).version == 5
    assert vm_uuid(ALLOC, "web") != vm_uuid(ALLOC, "db")


@pytest.mark.parametrize(
    ("parts", "hostname"),
    [
        (("ci", "runner", "runner", 3), "ci-runner-3"),
        (("web", "web", "web", 0), "web-0"),
        (("a", "b", "c", None), "a-b-c"),
    ],
)
def test_host_names_repeat_nothing(parts: tuple[str, str, str, int | None], hostname: str) -> None:
    assert default_hostname(*parts) == hostname
