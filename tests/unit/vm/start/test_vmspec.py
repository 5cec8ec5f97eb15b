import os
from pathlib import Path

import pytest
from fakes.specs import HARDWARE, QEMU_10_0

from qemu_node.config.node import Paths
from qemu_node.host.cgroup import ScopeLimits
from qemu_node.host.process.identity import identify
from qemu_node.net.port.tap import Tap
from qemu_node.net.portspec import PortSpec, UserPort
from qemu_node.qemu.accel.qemubinary import QemuBinary
from qemu_node.qemu.spec import (
    Accelerator,
    BaseImage,
    DiskAio,
    PortForward,
    SocketFds,
    TapNic,
    UserNic,
    VMSpec,
)
from qemu_node.units import GIB
from qemu_node.vm.hypervisor import Hypervisor
from qemu_node.vm.names import TaskIdentity
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.record import VMState
from qemu_node.vm.start.request import VMRequest
from qemu_node.vm.start.vmspec import Checked, vm_spec, vm_state

PATHS = Paths(run="/run/qemu-node", data="/data")
IDENTITY = TaskIdentity(
    alloc_id="11111111-2222-3333-4444-555555555555",
    namespace="default",
    job_id="shop",
    job_name="shop",
    group="front",
    task="web",
    index=0,
    node_name="node",
)
VM_ID = IDENTITY.vm_id
FORWARD = PortForward(label="ssh", host_ip="127.0.0.1", host_port=20022, guest_port=22)
USER = UserPort(vm_id=VM_ID, index=1, mac="02:00:00:00:00:01")
PORTS = [
    PortSpec(vm_id=VM_ID, index=index, ifname=f"qn{index}", mac=f"02:00:00:00:01:0{index}", vlan=30)
    for index in (0, 2)
]
TAPS = [
    Tap(ifname=port.ifname, ifindex=9, fds=(20 + port.index,), vhost_fds=(30 + port.index,))
    for port in PORTS
]
REQUEST = VMRequest(
    task_id="task",
    identity=IDENTITY,
    alloc_dir=Path("/alloc"),
    task_dir=Path("/alloc/web"),
    image="disk.qcow2",
    checksum=None,
    disk_size_bytes=None,
    hardware=HARDWARE,
    memory_bytes=2 * GIB,
    memory_max_bytes=3 * GIB,
    nics=(PORTS[0], USER, PORTS[1]),
    forwards=(FORWARD,),
    advertise=None,
    args=("-smbios type=11",),
    allow_exec=True,
    health=None,
    scope="",
    limits=ScopeLimits(memory_max_bytes=None, cpu_shares=1, cpuset_cpus="", pids_max=1),
    has_log=True,
)
CHECKED = Checked(
    hypervisor=Hypervisor(
        binary=QemuBinary(path="qemu", version=QEMU_10_0),
        accelerator=Accelerator.KVM,
        kvm_problem=None,
        aio=DiskAio.IO_URING,
    ),
    firmware=None,
    args=("-smbios", "type=11"),
    ram_bytes=1 * GIB,
)


@pytest.fixture
def spec() -> VMSpec:
    return vm_spec(
        REQUEST,
        CHECKED,
        VMDirectory.of(PATHS, VM_ID),
        base=BaseImage(path=Path("/data/base"), is_qcow2=False),
        pflash=None,
        hostname="web-0",
        taps=TAPS,
        sockets=SocketFds(qmp=10, monitor=11, console=12, qga=13, serial=14),
    )


def test_each_port_has_its_own_tap_and_the_nic_in_user_mode_the_forwards(spec: VMSpec) -> None:
    first, second, third = spec.nics
    assert isinstance(first, TapNic)
    assert isinstance(third, TapNic)
    assert (first.mac, first.tap_fds, first.vhost_fds) == (PORTS[0].mac, (20,), (30,))
    assert (third.mac, third.tap_fds, third.vhost_fds) == (PORTS[1].mac, (22,), (32,))
    assert second == UserNic(mac=USER.mac, hostname="web-0", forwards=(FORWARD,))


def test_qemu_gets_the_raw_options_that_were_checked_and_what_the_node_has(spec: VMSpec) -> None:
    assert spec.args == CHECKED.args
    assert (spec.accelerator, spec.aio) == (Accelerator.KVM, DiskAio.IO_URING)
    assert spec.memory_bytes == CHECKED.ram_bytes


def test_state_of_a_vm_says_what_a_later_driver_needs_and_can_be_read_again(spec: VMSpec) -> None:
    own = identify(os.getpid())
    assert own is not None
    state = vm_state(
        REQUEST,
        spec,
        VMDirectory.of(PATHS, VM_ID),
        own,
        uid=200_001,
        scope=None,
        oom_kills=3,
        image="disk.qcow2",
        hostname="web-0",
    )
    assert VMState.decode(state.encode(), "state.json") == state
    assert state.is_running
    assert (state.uid, state.oom_kills, state.has_log) == (200_001, 3, True)
    assert (state.data_dir, state.run_dir) == (f"/data/vm/{VM_ID}", f"/run/qemu-node/vm/{VM_ID}")
    record = state.record
    assert record.ports == tuple(PORTS)
    assert record.nics[1].forwards == (FORWARD,)
    assert (record.identity, record.hardware) == (IDENTITY, HARDWARE)
    assert (record.memory_bytes, record.memory_min_bytes, record.memory_max_bytes) == (
        1 * GIB,
        2 * GIB,
        3 * GIB,
    )
    assert record.sockets.console == f"/run/qemu-node/vm/{VM_ID}/console.sock"
