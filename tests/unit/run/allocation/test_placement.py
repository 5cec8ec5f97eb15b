import socket
from pathlib import Path

import pytest

from qemu_node.errors import JobError
from qemu_node.run.allocation.placement import (
    Placement,
    TaskDirs,
    node_attributes,
    pick_free_ports,
    place,
    task_env,
)
from qemu_node.run.jobfile.job import Job, job_from_api


def make_job(**group: object) -> Job:
    task = {"Name": "vm", "Driver": "vm", "Meta": {"Role": "db"}, "Resources": {"Cores": 2}}
    raw = {
        "ID": "web",
        "Meta": {"team.x": "a", "Role": "none"},
        "TaskGroups": [{"Name": "g", "Count": 2, "Tasks": [task]} | group],
    }
    return job_from_api(raw, "job.json")


def placed(job: Job) -> list[Placement]:
    ports = iter(range(20000, 20100))
    return place(job, free_ports=lambda n: [next(ports) for _ in range(n)], cpus=[4, 5, 6])


def test_count_gives_allocations_of_their_own() -> None:
    first, second = placed(make_job())
    assert (first.vm, second.vm) == ("g[0]", "g[1]")
    assert first.alloc_id != second.alloc_id
    assert first.alloc_name == "web.g[0]"
    assert first.task_id.startswith(f"{first.alloc_id}/vm/")
    assert first.cpus == (4, 5)


def test_tasks_of_one_group_share_the_allocation_and_its_ports() -> None:
    tasks = [{"Name": name, "Driver": "vm"} for name in ("a", "b")]
    networks = [{"DynamicPorts": [{"Label": "ssh", "To": 22}]}]
    first, second = placed(make_job(Count=1, Tasks=tasks, Networks=networks))
    assert (first.vm, second.vm) == ("g[0]/a", "g[0]/b")
    assert first.alloc_id == second.alloc_id
    assert first.ports == second.ports


def test_the_environment_is_that_of_nomad() -> None:
    networks = [{"DynamicPorts": [{"Label": "my-ssh", "To": 22}, {"Label": "web"}]}]
    placement = placed(make_job(Networks=networks))[1]
    env = task_env(placement, TaskDirs.inside())
    assert env["NOMAD_ALLOC_INDEX"] == "1"
    assert env["NOMAD_SHORT_ALLOC_ID"] == placement.alloc_id[:8]
    assert env["NOMAD_TASK_DIR"] == "/local"
    assert env["NOMAD_CPU_CORES"] == "4,5"
    assert (env["NOMAD_META_Role"], env["NOMAD_META_ROLE"]) == ("db", "db")
    assert env["NOMAD_META_team_x"] == "a"
    assert (env["NOMAD_PORT_my_ssh"], env["NOMAD_HOST_PORT_my_ssh"]) == ("22", "20002")
    assert (env["NOMAD_PORT_web"], env["NOMAD_ADDR_web"]) == ("20003", "127.0.0.1:20003")
    assert "NOMAD_MEMORY_MAX_LIMIT" not in env


def test_directories_are_the_hosts_without_isolation() -> None:
    dirs = TaskDirs.on_host(Path("/a/1"), "vm")
    assert dirs == TaskDirs(alloc="/a/1/alloc", local="/a/1/vm/local", secrets="/a/1/vm/secrets")


def test_more_cores_than_the_machine_has_are_refused() -> None:
    with pytest.raises(JobError, match="wants 2 cores, this machine has 1"):
        place(make_job(), free_ports=lambda _: [], cpus=[0])


def test_free_ports_are_distinct_and_free() -> None:
    ports = pick_free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_node_attributes_are_the_machines_and_the_drivers() -> None:
    attributes = node_attributes(make_job(), "n", {"driver.vm": "true", "driver.vm.tpm": "true"})
    assert attributes["attr.kernel.name"] == "linux"
    assert int(attributes["attr.memory.totalbytes"]) > 1 << 20
    assert (attributes["attr.driver.vm"], attributes["attr.driver.vm.tpm"]) == ("1", "true")
