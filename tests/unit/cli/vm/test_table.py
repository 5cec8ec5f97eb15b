from pathlib import Path

import msgspec
import pytest
from fakes.command_line import Node
from fakes.published import VM_ID, make_record

from qemu_node.cli.vm import table as vmtable
from qemu_node.config.node import Paths
from qemu_node.images.store.keptimage import file_name
from qemu_node.inventory.report import VMReport
from qemu_node.inventory.state import VMStatus, VMSummary, summarize
from qemu_node.units import MIB
from qemu_node.vm.life.usage import Usage
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.record import NicRecord

Output = pytest.CaptureFixture[str]


def test_cpu_and_memory_tell_use_and_size(tmp_path: Path) -> None:
    record = make_record(Paths(run=str(tmp_path), data=str(tmp_path)))
    summary = VMSummary(
        vm_id=VM_ID,
        status=VMStatus.RUNNING,
        record=record,
        pid=1,
        uptime_s=190.0,
        cpu_pct=12.6,
        pss_bytes=300 * MIB,
    )
    (row,) = vmtable.rows([summary])
    assert [cell.text for cell in row] == [
        VM_ID, "shop/front[0]/web", "running", "linux", "13% of 2", "300M/512M", "3m10s",
        "debian-13.qcow2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("https://u.example/a/b.qcow2?x=/y", "b.qcow2"),
        ("local/disk.raw", "disk.raw"),
        ("/srv/images/", "images"),
        ("/", "/"),
    ],
)
def test_an_image_is_known_by_its_last_part(image: str, name: str) -> None:
    assert file_name(image) == name


def test_show_tells_all_that_a_job_decided_of_the_hardware(node: Node, capsys: Output) -> None:
    record = node.publish()
    assert node.vm("show", "web") == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    decided = msgspec.to_builtins(record.hardware)
    for name, value in decided.items():
        if name != "vcpus":  # told with what they use
            assert lines[name] == (value if isinstance(value, str) else str(value).lower())


def test_show_tells_a_port_s_vlans_and_what_was_dropped(node: Node, capsys: Output) -> None:
    access = NicRecord(
        mode="vlan", mac="02:00:00:00:00:01", ifname="qn0", vlan=30, isolated=True,
        strict=True, queues=2, mtu=9000, rate_mbit=500, addresses=("10.3.0.0/16",),
    )  # fmt: skip
    trunk = NicRecord(mode="vlan", mac="02:00:00:00:00:02", ifname="qn1", trunk=(30, 31, 40))
    user = NicRecord(mode="user", mac="02:00:00:00:00:03")
    record = node.publish(nics=(access, trunk, user))
    usage = Usage(
        measured_at=0.0, cpu_user_s=0.0, cpu_system_s=0.0, pss_bytes=0, drops={"mac": 5, "tag": 1}
    )
    directory = VMDirectory.of(node.paths, record.vm_id)
    directory.usage_json.write_bytes(msgspec.json.encode(usage))
    summary = summarize(node.paths, record.vm_id)
    report = VMReport(record=record, summary=summary)
    lines = dict(vmtable.report_lines(report))
    assert lines["NIC 0"] == (
        "VLAN 30, 02:00:00:00:00:01, qn0, isolated, strict, 2 queues, MTU 9000, 500 Mbit/s, "
        "addresses in 10.3.0.0/16"
    )
    assert lines["NIC 1"] == "trunk of VLANs 30-31, 40, 02:00:00:00:00:02, qn1"
    assert lines["NIC 2"] == "user mode, 02:00:00:00:00:03"
    assert lines["frames dropped"] == "5 mac, 1 tag"
    assert vmtable.report_to_json(report)["drops"] == {"mac": 5, "tag": 1}


def test_a_vm_without_the_daemon_s_socket_is_shown_without_it(node: Node, capsys: Output) -> None:
    sockets = node.publish().sockets
    node.publish(sockets=msgspec.structs.replace(sockets, console=None))
    assert node.vm("show", "web") == 0
    shown = capsys.readouterr().out
    assert "serial socket" in shown
    assert "console socket" not in shown
