import msgspec
import pytest

from qemu_node.config.network import NetworkConfig
from qemu_node.errors import JobError
from qemu_node.nomad.proto import driver_pb2
from qemu_node.nomad.task.options import TaskOptions
from qemu_node.nomad.task.request import build_request, parse_cpu_list
from qemu_node.units import GIB, MIB


def task(
    *, memory_mb: int = 1024, memory_max_mb: int = 0, cpuset: str = "", index: str = "3"
) -> driver_pb2.TaskConfig:
    return driver_pb2.TaskConfig(
        id="alloc/web/12345678",
        name="web",
        alloc_id="alloc",
        job_id="shop",
        job_name="shop",
        task_group_name="front",
        namespace="prod",
        alloc_dir="/nomad/alloc/alloc",
        env={"NOMAD_ALLOC_INDEX": index},
        resources=driver_pb2.Resources(
            allocated_resources=driver_pb2.AllocatedTaskResources(
                memory=driver_pb2.AllocatedMemoryResources(
                    memory_mb=memory_mb, memory_max_mb=memory_max_mb
                )
            ),
            linux_resources=driver_pb2.LinuxResources(cpu_shares=500, cpuset_cpus=cpuset),
            ports=[
                driver_pb2.PortMapping(label="ssh", value=20022, host_ip="10.0.0.5"),
                driver_pb2.PortMapping(label="health", value=20080, host_ip="10.0.0.5"),
            ],
        ),
    )


def options(**changes: object) -> TaskOptions:
    return msgspec.convert({"image": "disk.qcow2", **changes}, TaskOptions)


def test_the_identity_is_nomads() -> None:
    request = build_request(task(), options(), merge_default=True, network=NetworkConfig())
    assert request.identity.index == 3
    assert request.identity.hostname == "shop-front-web-3"
    assert str(request.task_dir) == "/nomad/alloc/alloc/web"
    assert request.merge


def test_vcpus_are_the_option_else_the_reserved_cores_else_one() -> None:
    def vcpus(cpuset: str, **changes: object) -> int:
        return build_request(
            task(cpuset=cpuset), options(**changes), merge_default=True, network=NetworkConfig()
        ).vcpus

    assert vcpus("0-3,8", cpus=2) == 2
    assert vcpus("0-3,8") == 5
    assert vcpus("") == 1


def test_cpu_lists_are_the_kernels() -> None:
    assert parse_cpu_list("0-2,5") == [0, 1, 2, 5]
    assert parse_cpu_list("") == []


@pytest.mark.parametrize(
    ("memory_max_mb", "memory_max_bytes"), [(0, GIB), (2048, 2 * GIB), (-1, GIB), (512, GIB)]
)
def test_memory_max_is_never_below_memory(memory_max_mb: int, memory_max_bytes: int) -> None:
    request = build_request(
        task(memory_max_mb=memory_max_mb), options(), merge_default=True, network=NetworkConfig()
    )
    assert request.memory_bytes == 1024 * MIB
    assert request.memory_max_bytes == memory_max_bytes


def test_no_limit_in_nomad_is_no_limit_in_the_cgroup() -> None:
    unlimited = build_request(
        task(memory_max_mb=-1), options(), merge_default=True, network=NetworkConfig()
    )
    assert unlimited.limits.memory_max_bytes is None
    limited = build_request(task(), options(), merge_default=True, network=NetworkConfig())
    assert limited.limits.memory_max_bytes is not None
    assert limited.limits.memory_max_bytes >= GIB


def test_port_labels_become_forwards() -> None:
    request = build_request(
        task(), options(ports={"ssh": 22}), merge_default=True, network=NetworkConfig()
    )
    (forward,) = request.forwards
    assert (forward.host_ip, forward.host_port, forward.guest_port) == ("10.0.0.5", 20022, 22)


def test_a_health_port_is_served_by_the_driver() -> None:
    request = build_request(
        task(), options(health_port="health"), merge_default=True, network=NetworkConfig()
    )
    assert request.health is not None
    assert (request.health.host_ip, request.health.port) == ("10.0.0.5", 20080)


@pytest.mark.parametrize("changes", [{"ports": {"http": 80}}, {"health_port": "http"}])
def test_an_unknown_port_label_is_refused_with_those_there_are(changes: dict[str, object]) -> None:
    with pytest.raises(JobError, match="no port 'http'; it has: health, ssh"):
        build_request(task(), options(**changes), merge_default=True, network=NetworkConfig())


def test_a_user_of_the_job_is_refused_because_no_vm_could_have_it() -> None:
    config = task()
    config.user = "nobody"
    with pytest.raises(JobError, match="the task's user is 'nobody'") as caught:
        build_request(config, options(), merge_default=True, network=NetworkConfig())
    assert "remove `user`" in caught.value.explain()


@pytest.mark.parametrize(
    ("stdout_path", "has_log"),
    [("/nomad/alloc/alloc/logs/.web.stdout.fifo", True), ("/dev/null", False), ("", True)],
)
def test_a_job_without_logs_is_known_by_the_path_nomad_sends(
    stdout_path: str, *, has_log: bool
) -> None:
    config = task()
    config.stdout_path = stdout_path
    request = build_request(config, options(), merge_default=True, network=NetworkConfig())
    assert request.has_log is has_log
