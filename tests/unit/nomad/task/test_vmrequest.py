import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.told import ToldStart

from qemu_node.config.network import NetworkConfig, NetworkPolicy
from qemu_node.errors import JobError
from qemu_node.nomad.proto import driver_pb2
from qemu_node.nomad.task.options import TaskOptions, _options, parse_options
from qemu_node.nomad.task.vmrequest import build_request, parse_cpu_list
from qemu_node.units import GIB, MIB


def task(
    *,
    memory_mb: int = 1024,
    memory_max_mb: int = 0,
    cpuset: str = "",
    index: str = "3",
    alloc_dir: Path = Path("/nomad/alloc/alloc"),
) -> driver_pb2.TaskConfig:
    return driver_pb2.TaskConfig(
        id="alloc/web/12345678",
        name="web",
        alloc_id="alloc",
        job_id="shop",
        job_name="shop",
        task_group_name="front",
        namespace="prod",
        alloc_dir=str(alloc_dir),
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
    assert request.hardware.merge


def test_vcpus_are_the_option_else_the_reserved_cores_else_one() -> None:
    def vcpus(cpuset: str, **changes: object) -> int:
        return build_request(
            task(cpuset=cpuset), options(**changes), merge_default=True, network=NetworkConfig()
        ).hardware.vcpus

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


# What each option changes: the text that QEMU's command line, a call of the node's services or the
# VM's state has with the option alone.
_EFFECTS: dict[str, tuple[Any, str]] = {
    "image": ("other.img", "image other.img "),
    "checksum": ("sha256:" + "0" * 64, "'checksum': 'sha256:0000"),
    "disk_size": ("3G", f"disk of {3 * GIB} bytes"),
    "os": ("windows", '"qemu-xhci"'),
    "firmware": ("bios", "smm=off"),
    "cpus": (3, "cpus=3,"),
    "network.mode": ("user", '{"type":"user"'),
    "network.vlan": (120, "vlan=120,"),
    "network.trunk": (["120", "130"], "trunk=(120, 130)"),
    "network.mac": ("02:00:00:00:00:aa", '"mac":"02:00:00:00:00:aa"'),
    "network.isolated": (True, "isolated=True"),
    "network.queues": (2, '"mq":true'),
    "network.mtu": (1400, '"host_mtu":1400'),
    "network.rate": (100, "rate_mbit=100"),
    "network.advertise": ("60s", "Advertise(nic=0, wait_s=60.0)"),
    "ports": ({"ssh": 22}, '"tcp:10.0.0.5:20022-:22"'),
    "health_port": ("health", "HealthEndpoint(host_ip='10.0.0.5', port=20080)"),
    "guest_agent.allow_exec": (True, "allow_exec=True"),
    "watchdog": (True, '"i6300esb"'),
    "merge": (False, '"merge":false'),
    "args": (["-smbios type=11,value=x"], "type=11,value=x"),
}


def names_of(body: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    """Yield the names of all options, those of blocks after the block's."""
    for name, option in _options(body).items():
        if option.body is None:
            yield prefix + name
        else:
            yield from names_of(option.body, f"{prefix}{name}.")


def config_of(name: str | None) -> bytes:
    """Return a job's `config` block as Nomad sends it, with the option `name` of the table set."""
    block: dict[str, Any] = {"image": "disk.img"}
    # Of a block that is there once, only what differs is given: it is a list for `network` alone.
    if name == "ports":
        block["network"] = [{"mode": "user"}]
    if name is not None:
        first, _, rest = name.partition(".")
        value = _EFFECTS[name][0]
        block[first] = (
            value if not rest else [{rest: value}] if first == "network" else {rest: value}
        )
    return msgspec.msgpack.encode(block)


async def told(start: ToldStart, config: bytes, *, merge_default: bool = True) -> str:
    """Return what QEMU, the node's services and Nomad are told for a job's `config` block."""
    network = NetworkConfig(
        bridge="br0",
        default_vlan=50,
        policy=(NetworkPolicy(namespaces=("*",), vlans=("50", "100-199"), trunk=True, mac=True),),
    )
    request = build_request(
        task(alloc_dir=start.alloc_dir),
        parse_options(config),
        merge_default=merge_default,
        network=network,
    )
    return f"{await start.start(request)}\n{request.advertise}"


@pytest.fixture
def start(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToldStart:
    return ToldStart(short_tmp_path, monkeypatch)


def test_the_table_of_effects_has_every_option() -> None:
    assert set(_EFFECTS) == set(names_of(TaskOptions))


@pytest.mark.parametrize("name", _EFFECTS)
async def test_each_option_changes_what_qemu_or_the_node_is_told(
    start: ToldStart, name: str
) -> None:
    effect = _EFFECTS[name][1]
    assert effect in await told(start, config_of(name))
    assert effect not in await told(start, config_of(None))


async def test_a_job_that_does_not_say_has_its_pages_merged_as_the_node_is_set(
    start: ToldStart,
) -> None:
    assert '"merge":true' in await told(start, config_of(None), merge_default=True)
    assert '"merge":false' in await told(start, config_of(None), merge_default=False)
    config = msgspec.msgpack.encode({"image": "disk.img", "merge": True})
    assert '"merge":true' in await told(start, config, merge_default=False)


async def test_what_is_not_an_option_is_told_as_well(start: ToldStart) -> None:
    config = task(alloc_dir=start.alloc_dir)
    config.stdout_path = os.devnull
    request = build_request(config, options(), merge_default=True, network=NetworkConfig())
    text = await start.start(request)
    assert "has_log=False" in text
    assert "oom_kills=0" in text
    assert '"aio":"io_uring"' in text
    assert f"memory_min_bytes={GIB}" in text
    assert f"data_dir='{start.node.config.paths.vm_data_dir}/web-" in text
