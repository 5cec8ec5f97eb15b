import os
from pathlib import Path

import pytest

from qemu_node.host.process.identity import ProcessId, ProcessTimes, identify
from qemu_node.net.portspec import PortSpec
from qemu_node.vm.life import usage
from qemu_node.vm.life.usage import DiskState, UsageMeter, drops_of, read_usage


def test_cpu_use_is_what_was_used_since_the_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0])
    times = iter([ProcessTimes(user_s=1.0, system_s=0.5), ProcessTimes(user_s=2.0, system_s=0.7)])
    monkeypatch.setattr("qemu_node.vm.life.usage.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(usage, "cpu_times", lambda _process: next(times))
    meter = UsageMeter(ProcessId(pid=1, start_time=1))
    assert meter.cpu_share().total_pct == 0.0
    share = meter.cpu_share()
    assert share.user_pct == pytest.approx(50.0)
    assert share.system_pct == pytest.approx(10.0)


def test_a_process_that_is_gone_uses_nothing() -> None:
    meter = UsageMeter(ProcessId(pid=2**22 + 1, start_time=1))
    assert meter.measure().pss_bytes == 0
    assert meter.cpu_share().total_pct == 0.0


def test_a_live_process_has_memory() -> None:
    process = identify(os.getpid())
    assert process is not None
    assert UsageMeter(process).measure().pss_bytes > 1 << 20


def test_drops_of_a_vm_are_those_of_its_ports_by_reason() -> None:
    ports = [
        PortSpec(vm_id="web-1", index=n, ifname=f"qn{n}", mac=f"02:00:00:00:00:0{n}", vlan=30)
        for n in (1, 2)
    ]
    drops = {
        "qn1": {"mac": 2, "arp": 0, "tag": 1},
        "qn2": {"mac": 3, "arp": 0},
        "qn3": {"ra": 9},
    }
    assert drops_of(ports, drops) == {"mac": 5, "tag": 1}
    assert drops_of(ports, {}) == {}


def test_what_is_published_is_read_again_by_the_next_driver(tmp_path: Path) -> None:
    disk = DiskState(is_full=True, pauses=4, paused_at=7.0)
    path = tmp_path / "usage.json"
    UsageMeter(ProcessId(pid=2**22 + 1, start_time=1), disk).publish(path)
    usage = read_usage(path)
    assert usage is not None
    assert usage.disk == disk


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"measured_at": "x"}'])
def test_a_damaged_file_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "usage.json"
    assert read_usage(path) is None
    path.write_bytes(content)
    assert read_usage(path) is None


def test_a_file_of_an_older_driver_knows_no_disk(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    path.write_text('{"measured_at":1,"cpu_user_s":1,"cpu_system_s":1,"pss_bytes":1}')
    usage = read_usage(path)
    assert usage is not None
    assert usage.disk == DiskState()
    assert usage.merged_bytes is usage.overlay_bytes is usage.read_bytes is None


def test_the_space_of_a_disk_is_what_it_takes_not_what_it_could(tmp_path: Path) -> None:
    process = identify(os.getpid())
    assert process is not None
    overlay = tmp_path / "overlay.qcow2"
    assert UsageMeter(process, overlay=overlay).measure().overlay_bytes is None
    with overlay.open("wb") as file:
        file.truncate(1 << 30)
        file.write(b"x" * 8192)
    found = UsageMeter(process, overlay=overlay).measure().overlay_bytes
    assert found is not None
    assert 8192 <= found < 1 << 20


def test_a_newer_drivers_file_is_read_by_this_one(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    path.write_text(
        '{"measured_at":1,"cpu_user_s":1,"cpu_system_s":1,"pss_bytes":1,"new_bytes":[1]}'
    )
    assert read_usage(path) is not None
