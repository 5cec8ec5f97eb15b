"""From what is known of VMs and node to metrics: pure.

Owns which values labels can have: names of jobs are cut and made printable, words are those of
lists of ours, anything else is `other`. Does not own the text that is sent (prometheus_client).
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from qemu_node.host.process.identity import ProcessTimes
from qemu_node.inventory.state import VMStatus
from qemu_node.net.filter.ruleset import Reason
from qemu_node.qmp.events import RunState
from qemu_node.text import printable
from qemu_node.vm.record.outcome import EndKind
from qemu_node.vm.start.steps import StartStep
from qemu_node.web.fleet.livevm import VMFigures
from qemu_node.web.metrics import table
from qemu_node.web.metrics.netdev import Traffic
from qemu_node.web.metrics.nodefigures import NodeFigures
from qemu_node.web.metrics.table import VM, Kind, Node

LABEL_MAX_CHARS = 128
OTHER = "other"
_STATES = frozenset({*VMStatus, *RunState, "paused", "suspended", "resetting"})
_STEPS = frozenset({"check", *StartStep})
_ENDS = frozenset(EndKind)
_REASONS = frozenset(Reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """All that a scrape is made of."""

    node: NodeFigures
    version: str
    kernel: str
    vms: Sequence[VMFigures]
    others: Collection[VMStatus] = ()
    """The states of what is no published VM."""
    cpu: Mapping[str, ProcessTimes | None]
    """By vm_id."""
    traffic: Mapping[str, Traffic]
    """By TAP."""
    troubles: int = 0
    """How many the console has."""


class _Families:
    """Metrics that get their samples one by one; those without any are left out."""

    def __init__(self) -> None:
        self._by_name: dict[str, Metric] = {}

    def add(self, metric: table.Metric, value: float | None, *labels: str) -> None:
        """Add a sample; None: it is not known."""
        if value is None:
            return
        family = self._by_name.get(metric.name)
        if family is None:
            family = self._by_name[metric.name] = _family(metric)
        assert isinstance(family, GaugeMetricFamily | CounterMetricFamily)
        family.add_metric(labels, value)

    def add_summary(self, metric: table.Metric, count: int, total: float) -> None:
        """Add a sum and how many it is of."""
        family = SummaryMetricFamily(metric.name, metric.meaning)
        family.add_metric((), count, total)
        self._by_name[metric.name] = family

    def all(self) -> list[Metric]:
        """Return them in the order of the table."""
        order = [metric.name for metric in (*table.of_node(), *table.of_vms())]
        return [self._by_name[name] for name in order if name in self._by_name]


def _family(metric: table.Metric) -> Metric:
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    return kind(metric.name, metric.meaning, labels=metric.labels)


def families(seen: Collected) -> list[Metric]:
    """Return the metrics of what was collected."""
    found = _Families()
    _add_node(found, seen)
    for vm in seen.vms:
        _add_vm(found, vm, seen.cpu.get(vm.view.vm_id))
        _add_network(found, vm, seen.traffic)
    return found.all()


def label(text: str) -> str:
    """Return a name as the value of a label: printable, and not endless."""
    return printable(text)[:LABEL_MAX_CHARS]


def word(text: str, known: Collection[str]) -> str:
    """Return a word of a list, or `other`."""
    return text if text in known else OTHER


def _by_word(counts: Mapping[str, int], known: Collection[str]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for text, count in counts.items():
        total[word(text, known)] += count
    return dict(sorted(total.items()))


def _add_node(found: _Families, seen: Collected) -> None:
    node, driver = seen.node, seen.node.driver
    driver_version = "" if driver is None else driver.driver_version
    found.add(Node.INFO, 1, seen.version, label(driver_version), label(seen.kernel))
    states = Counter(word(vm.view.state, _STATES) for vm in seen.vms)
    states.update(status.value for status in seen.others)
    # A state that no VM is in any more must go back to 0.
    for state in sorted({VMStatus.RUNNING.value, *states}):
        found.add(Node.VMS, states[state], state)
    found.add(Node.PROBLEMS, seen.troubles, "console")
    if node.memory is not None:
        found.add(Node.MEMORY_TOTAL, node.memory.total_bytes)
        found.add(Node.MEMORY_AVAILABLE, node.memory.available_bytes)
    if node.ksm is not None:
        found.add(Node.KSM_RUNNING, int(node.ksm.is_running))
        found.add(Node.KSM_SAVED, node.ksm.merged_bytes)
        found.add(Node.KSM_SHARED, node.ksm.shared_bytes)
        found.add(Node.KSM_PROFIT, node.ksm.profit_bytes)
        found.add(Node.KSM_SCANS, node.ksm.full_scans)
    if node.disk is not None:
        found.add(Node.DISK_SIZE, node.disk.total_bytes)
        found.add(Node.DISK_FREE, node.disk.free_bytes)
        found.add(Node.DISK_RESERVE, node.reserve_bytes)
    if driver is None:
        return
    found.add(Node.PROBLEMS, len(driver.problems), "driver")
    found.add(Node.DRIVER_AT, driver.written_at)
    if driver.cache is not None:
        found.add(Node.IMAGES, driver.cache.count)
        found.add(Node.IMAGES_USED, driver.cache.in_use)
        found.add(Node.IMAGES_BYTES, driver.cache.bytes)
        found.add(Node.IMAGES_USED_BYTES, driver.cache.in_use_bytes)
        found.add(Node.IMAGES_AT, driver.cache_at)
    counts = driver.counts
    found.add(Node.STARTS, counts.started, "started")
    found.add(Node.STARTS, sum(counts.failed.values()), "failed")
    found.add(Node.STARTS, counts.cancelled, "cancelled")
    for step, count in _by_word(counts.failed, _STEPS).items():
        found.add(Node.START_FAILURES, count, step)
    found.add_summary(Node.START_TIME, counts.started, counts.start_s)
    # From the first VM on: a rate of what has just appeared would be none.
    ends = dict.fromkeys(sorted(_ENDS), 0) | _by_word(counts.ended, _ENDS)
    for how, count in ends.items():
        found.add(Node.ENDS, count, how)


def _add_vm(found: _Families, vm: VMFigures, cpu: ProcessTimes | None) -> None:
    view, usage = vm.view, vm.usage
    vm_id = view.vm_id
    found.add(
        VM.INFO,
        1,
        vm_id,
        label(view.alloc_id),
        *map(label, (view.namespace, view.job, view.group, view.task)),
        "" if view.index is None else str(view.index),
        label(view.os),
        label(view.image),
    )
    found.add(VM.STATE, 1, vm_id, word(view.state, _STATES))
    found.add(VM.START, vm.started_at, vm_id)
    if cpu is not None:
        found.add(VM.CPU, cpu.user_s, vm_id, "user")
        found.add(VM.CPU, cpu.system_s, vm_id, "system")
    found.add(VM.VCPUS, view.vcpus, vm_id)
    memory = view.memory
    found.add(VM.MEMORY_RESERVED, memory.min_bytes, vm_id)
    found.add(VM.MEMORY_LIMIT, memory.max_bytes, vm_id)
    found.add(VM.MEMORY_PLUGGED, memory.plugged_bytes, vm_id)
    if vm.memory_said_at is not None:
        found.add(VM.MEMORY_USED, memory.used_bytes, vm_id)
        found.add(VM.MEMORY_USED_AT, vm.memory_said_at, vm_id)
    found.add(VM.AGENT_AT, vm.agent_answered_at, vm_id)
    found.add(VM.MONITOR, int(vm.is_monitor_open), vm_id)
    found.add(VM.VIEWERS, view.viewers, vm_id)
    if usage is None:
        return
    found.add(VM.MEMORY_PSS, usage.pss_bytes or None, vm_id)
    found.add(VM.MEMORY_MERGED, usage.merged_bytes, vm_id)
    found.add(VM.OVERLAY, usage.overlay_bytes, vm_id)
    found.add(VM.DISK_READ, usage.read_bytes, vm_id)
    found.add(VM.DISK_WRITTEN, usage.write_bytes, vm_id)
    found.add(VM.DISK_PAUSES, usage.disk.pauses, vm_id)
    found.add(VM.USAGE_AT, usage.measured_at, vm_id)
    for reason, count in _by_word(usage.drops, _REASONS).items():
        found.add(VM.FILTERED, count, vm_id, reason)


def _add_network(found: _Families, vm: VMFigures, traffic: Mapping[str, Traffic]) -> None:
    for index, ifname in enumerate(vm.nics):
        seen = None if ifname is None else traffic.get(ifname)
        if seen is None:
            continue
        of_nic = (vm.view.vm_id, str(index))
        found.add(VM.RECEIVED, seen.received_bytes, *of_nic)
        found.add(VM.RECEIVED_FRAMES, seen.received_frames, *of_nic)
        found.add(VM.RECEIVE_DROPS, seen.receive_drops, *of_nic)
        found.add(VM.SENT, seen.sent_bytes, *of_nic)
        found.add(VM.SENT_FRAMES, seen.sent_frames, *of_nic)
        found.add(VM.SEND_DROPS, seen.send_drops, *of_nic)
