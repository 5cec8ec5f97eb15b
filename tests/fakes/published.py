"""VMs as they are published on a node, without a QEMU: this test's own process stands for it."""

import os
from pathlib import Path
from typing import Any

import msgspec

from fakes.specs import HARDWARE
from qemu_node.config.node import Paths
from qemu_node.host.process.identity import boot_id, identify
from qemu_node.qemu.spec import Accelerator, PortForward
from qemu_node.units import MIB
from qemu_node.vm.names import TaskIdentity
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.record import NicRecord, VMRecord, VMState

VM_ID = "web-0123456789ab"


def make_record(paths: Paths, vm_id: str = VM_ID, **changes: Any) -> VMRecord:
    """Return the record of a VM that runs: as this process.

    `changes` replace its fields, and those of its identity.
    """
    own = identify(os.getpid())
    assert own is not None
    directory = VMDirectory.of(paths, vm_id)
    record = VMRecord(
        vm_id=vm_id,
        identity=TaskIdentity(
            alloc_id="11111111-2222-3333-4444-555555555555",
            namespace="default",
            job_id="shop",
            job_name="shop",
            group="front",
            task="web",
            index=0,
            node_name="node",
        ),
        pid=own.pid,
        start_time=own.start_time,
        uuid="8e3ff5e8-4e17-5b1b-a8a5-0f2d8c0f5d0c",
        hostname="shop-front-web-0",
        hardware=HARDWARE,
        accelerator=Accelerator.TCG,
        image="https://example.org/images/debian-13.qcow2?token=1",
        memory_bytes=512 * MIB,
        memory_min_bytes=512 * MIB,
        memory_max_bytes=512 * MIB,
        nics=(
            NicRecord(
                mode="user",
                mac="52:54:00:12:34:56",
                forwards=(
                    PortForward(label="http", host_ip="127.0.0.1", host_port=20080, guest_port=80),
                ),
            ),
        ),
        sockets=directory.socket_paths(),
        qga_lock=str(directory.qga_lock),
        allow_exec=True,
        alloc_dir=str(Path(paths.data) / "alloc"),
        created_at="2026-01-02T03:04:05Z",
    )
    who = {name: changes.pop(name) for name in TaskIdentity.__struct_fields__ if name in changes}
    return msgspec.structs.replace(
        record, identity=msgspec.structs.replace(record.identity, **who), **changes
    )


def publish(paths: Paths, record: VMRecord) -> VMDirectory:
    """Write what a completed start leaves, and return where."""
    directory = VMDirectory.of(paths, record.vm_id)
    directory.create_data()
    directory.create_run(None)
    directory.vm_json.write_bytes(msgspec.json.encode(record))
    state = VMState(
        boot_id=boot_id(),
        vm_id=record.vm_id,
        task_id="task",
        record=record,
        uid=None,
        scope=None,
        health=None,
    )
    directory.state_file.write_bytes(state.encode())
    return directory
