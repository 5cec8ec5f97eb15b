import pytest

from qemu_node.errors import JobError
from qemu_node.run.jobfile.job import job_from_api


def raw_job(task: dict[str, object] | None = None, **group: object) -> dict[str, object]:
    vm = {"Name": "vm", "Driver": "vm", "Config": {"image": "x"}} | (task or {})
    return {"ID": "j", "TaskGroups": [{"Name": "g", "Tasks": [vm]} | group]}


def test_what_is_missing_has_nomads_defaults() -> None:
    job = job_from_api({"Job": raw_job()}, "job.json")
    group = job.groups[0]
    task = group.tasks[0]
    assert (job.name, job.namespace, job.region, job.datacenter) == (
        "j",
        "default",
        "global",
        "dc1",
    )
    assert group.count == 1
    assert task.kill_timeout_s == 5.0
    assert (task.resources.cpu_mhz, task.resources.memory_mib) == (100, 300)


def test_durations_may_be_nanoseconds_or_text() -> None:
    for given in (20_000_000_000, "20s"):
        job = job_from_api(raw_job({"KillTimeout": given}), "job.json")
        assert job.groups[0].tasks[0].kill_timeout_s == 20.0


def test_system_jobs_run_once() -> None:
    job = job_from_api(raw_job(Count=5) | {"Type": "system"}, "job.json")
    assert job.groups[0].count == 1


def test_a_port_to_minus_one_is_the_hosts_port() -> None:
    ports = [{"DynamicPorts": [{"Label": "http", "To": -1}]}]
    assert job_from_api(raw_job(Networks=ports), "job.json").groups[0].ports[0].to == 0


def test_identities_are_noted_once_whichever_they_are() -> None:
    task: dict[str, object] = {"Identity": {"Name": "default"}, "Identities": [{"Name": "x"}]}
    assert job_from_api(raw_job(task), "job.json").notes == (
        "group 'g', task 'vm': workload identities are not signed",
    )


def test_services_are_noted_not_refused() -> None:
    assert job_from_api(raw_job(Services=[{}]), "job.json").notes == (
        "group 'g': services are not registered",
    )


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ([], "job is not an object"),
        (raw_job(Count=50_001), "group 'g' has count = 50001; Nomad takes 50000 at most"),
        ({}, "has no ID"),
        (raw_job() | {"Periodic": {"Spec": "x"}}, "Periodic"),
        (raw_job({"Artifacts": [{}]}), "group 'g', task 'vm' has Artifacts"),
        (raw_job({"Name": "../x"}), "cannot be a directory"),
        (raw_job({"Name": ".."}), "cannot be a directory"),
        (raw_job({"Resources": {"MemoryMB": -1}}), "MemoryMB = -1"),
        (raw_job({"Resources": {"Devices": [{}]}}), "Devices"),
        (raw_job({"Templates": [{"DestPath": "x"}]}), "either data or source"),
        (raw_job({"Templates": [{"EmbeddedTmpl": "x"}]}), "has no DestPath"),
        (raw_job({"Templates": [{"EmbeddedTmpl": "x", "DestPath": "x", "Perms": "rw"}]}), "perms"),
        (raw_job({"KillTimeout": "soon"}), "KillTimeout"),
        (raw_job({"KillTimeout": "-1s"}), "KillTimeout = '-1s', which is negative"),
        (raw_job({"Env": {"A": [1]}}), r"Env\.A: a list is not a string"),
        (raw_job({"Config": []}, Count=1) | {"TaskGroups": "x"}, "TaskGroups"),
        (raw_job(Count=True), "Count = True"),
        (raw_job(Networks=[{"Mode": "bridge"}]), "mode 'bridge'"),
        (raw_job(Count=2, Networks=[{"ReservedPorts": [{"Label": "a", "Value": 80}]}]), "static"),
    ],
)
def test_what_is_wrong_or_only_nomads_is_named(raw: object, problem: str) -> None:
    with pytest.raises(JobError, match=problem) as caught:
        job_from_api(raw, "job.json")
    assert str(caught.value).startswith("job.json: ")
