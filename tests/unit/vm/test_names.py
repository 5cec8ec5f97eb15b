import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.vm.names import VM_ID, VM_ID_MAX_BYTES, TaskIdentity, default_hostname, vm_id

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


def identity(task: str) -> TaskIdentity:
    return TaskIdentity(
        alloc_id=ALLOC,
        namespace="default",
        job_id="shop",
        job_name="shop",
        group="api",
        task=task,
        index=0,
        node_name="node1",
    )


def test_the_uuid_is_a_uuid_of_the_task() -> None:
    assert uuid.UUID(identity("web").uuid).version == 5
    assert identity("web").uuid != identity("db").uuid


@pytest.mark.parametrize(
    ("parts", "hostname"),
    [
        (("ci", "runner", "runner", 3), "ci-runner-3"),
        (("web", "web", "web", 0), "web-0"),
        (("a", "b", "c", None), "a-b-c"),
        (("web-api", "web-api", "web-api", 0), "web-api-0"),
        (("shop", "web-api", "vm", 2), "shop-web-api-vm-2"),
    ],
)
def test_host_names_repeat_nothing(parts: tuple[str, str, str, int | None], hostname: str) -> None:
    assert default_hostname(*parts) == hostname


LONG = "edge-observability-collector-production-frankfurt-cluster-03"
CHILD = "team/nightly-windows-installer-regression-suite/dispatch-1734567890-"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((LONG, "collectors", "vm", 0), (LONG, "collectors", "vm", 1)),
        ((LONG, "collectors", "vm", 0), (LONG, "collectors", "vm2", 0)),
        ((LONG, "collectors", "vm", 1), (LONG, "collectors", "vm", 11)),
        ((CHILD + "1a2b3c4d", "runner", "vm", 0), (CHILD + "9f8e7d6c", "runner", "vm", 0)),
        (("web", "网站", "vm", 0), ("web", "ウェブ", "vm", 0)),
        (("web", "a_b", "a_b", 0), ("web", "a-b", "a-b", 0)),
        (("web", "A", "A", 0), ("web", "a", "a", 0)),
        (("x" * 70, "g", "t", None), ("x" * 70, "g", "u", None)),
    ],
)
def test_host_names_of_a_jobs_vms_differ_after_cutting(
    first: tuple[str, str, str, int | None], second: tuple[str, str, str, int | None]
) -> None:
    assert default_hostname(*first) != default_hostname(*second)


@pytest.mark.parametrize("job", ["job", "g", "g-t", "网站"])
def test_host_names_of_a_job_tell_every_group_and_task_apart(job: str) -> None:
    words = ["g", "t", "0", "vm", "A", "网站"]
    names = [*words, *(f"{a}-{b}" for a in words for b in words), "g-t-0", "g_t", job]
    vms = {(group, task, index) for group in names for task in names for index in (0, 10)}
    hosts = {default_hostname(job, group, task, index) for group, task, index in vms}
    assert len(hosts) == len(vms)


@pytest.mark.parametrize("name", ["网站", "7", "0x1f", "", "-"])
@pytest.mark.parametrize("index", [None, 0])
def test_a_host_name_is_never_a_number(name: str, index: int | None) -> None:
    label = default_hostname(name, name, name, index)
    assert not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", label)


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80), st.integers(0, 99999))
def test_any_names_give_a_label_that_keeps_the_index(
    job: str, group: str, task: str, index: int
) -> None:
    label = default_hostname(job, group, task, index)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label)
    assert label.endswith(f"-{index}")
    assert default_hostname(job, group, task, index + 1) != label


def test_a_name_of_the_longest_length_is_not_changed() -> None:
    job = "x" * 59
    assert default_hostname(job, "g", "g", None) == f"{job}-g"
    assert default_hostname(job, "g", "g", 1) == f"{job}-g-1"
    assert default_hostname(job, "g", "g", 10) != f"{job}-g-10"
