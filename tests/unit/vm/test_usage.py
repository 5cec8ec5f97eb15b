import os

import pytest

from qemu_node.host.process import ProcessId, ProcessTimes, identify
from qemu_node.net.spec import PortSpec
from qemu_node.vm import usage
from qemu_node.vm.usage import UsageMeter, drops_of


def test_cpu_use_is_what_was_used_since_the_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0])
    times = iter([ProcessTimes(user_s=1.0, system_s=0.5), ProcessTimes(user_s=2.0, system_s=0.7)])
    monkeypatch.setattr("qemu_node.vm.usage.time.monotonic", lambda: next(clock))
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
