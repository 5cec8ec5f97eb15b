"""Every metric: its name, labels, meaning and source. docs/metrics.md has the same rows.

Names follow Prometheus (prometheus.io/docs/practices/naming): base units, `_total` for what only
grows, times as Unix times and not as ages. Labels are few, and none is a guest's word: a guest that
changed one would make a new series each time. What the job says is in `qemu_node_vm_info` alone, so
the other metrics have `vm_id`, by which they are joined with it.
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """As Prometheus calls it."""

    GAUGE = "gauge"
    COUNTER = "counter"
    SUMMARY = "summary"


class Source(StrEnum):
    """Where a figure comes from, so how old it is."""

    NOW = "read at the scrape"
    EVENT = "QEMU, when it changes"
    USAGE = "the driver, every 20 s"
    GUEST = "the guest, once a minute"
    AGENT = "the guest agent, asked every 5 minutes"
    DRIVER = "the driver, within a minute"
    CACHE = "the driver, once a minute"
    RECORD = "the VM's start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric."""

    name: str
    """As in a scrape, with `_total` for a counter."""
    kind: Kind
    labels: tuple[str, ...] = ()
    meaning: str
    source: Source


def _node(name: str, meaning: str, source: Source, *labels: str, kind: Kind = Kind.GAUGE) -> Metric:
    return Metric(
        name=f"qemu_node_{name}", kind=kind, labels=labels, meaning=meaning, source=source
    )


def _vm(name: str, meaning: str, source: Source, *labels: str) -> Metric:
    kind = Kind.COUNTER if name.endswith("_total") else Kind.GAUGE
    return _node(f"vm_{name}", meaning, source, "vm_id", *labels, kind=kind)


class VM:
    """Metrics of one VM that runs."""

    INFO = _vm(
        "info",
        "Always 1: what the VM is",
        Source.RECORD,
        *("alloc_id", "namespace", "nomad_job", "task_group", "task", "index", "os", "image"),
    )
    STATE = _vm("state", "1 for the state that the VM is in", Source.EVENT, "state")
    START = _vm("start_time_seconds", "When its QEMU was started", Source.NOW)
    CPU = _vm("cpu_seconds_total", "CPU time of its QEMU, vCPUs included", Source.NOW, "mode")
    VCPUS = _vm("vcpus", "vCPUs that it has", Source.RECORD)
    MEMORY_RESERVED = _vm("memory_reserved_bytes", "Memory that its task reserves", Source.RECORD)
    MEMORY_LIMIT = _vm("memory_limit_bytes", "Memory that it may grow to", Source.RECORD)
    MEMORY_PLUGGED = _vm("memory_plugged_bytes", "Memory that the guest has", Source.EVENT)
    MEMORY_USED = _vm("memory_used_bytes", "Memory in use, as the guest says", Source.GUEST)
    MEMORY_USED_AT = _vm(
        "memory_used_timestamp_seconds", "When the guest said how much it uses", Source.GUEST
    )
    MEMORY_PSS = _vm(
        "memory_pss_bytes", "Memory of the node that it takes: Pss of its QEMU", Source.USAGE
    )
    MEMORY_MERGED = _vm(
        "memory_merged_bytes", "Memory of it that KSM has merged with other memory", Source.USAGE
    )
    OVERLAY = _vm("overlay_bytes", "Space of the node that its disk takes", Source.USAGE)
    DISK_READ = _vm("disk_read_bytes_total", "Bytes that its QEMU has read from disk", Source.USAGE)
    DISK_WRITTEN = _vm(
        "disk_written_bytes_total", "Bytes that its QEMU has written to disk", Source.USAGE
    )
    DISK_PAUSES = _vm(
        "disk_full_pauses_total", "How often it waited for room on the node's disk", Source.USAGE
    )
    RECEIVED = _vm(
        "network_receive_bytes_total", "Bytes that the guest was sent", Source.NOW, "nic"
    )
    RECEIVED_FRAMES = _vm(
        "network_receive_packets_total", "Frames that the guest was sent", Source.NOW, "nic"
    )
    RECEIVE_DROPS = _vm(
        "network_receive_drop_total",
        "Frames for the guest that it did not take in time",
        Source.NOW,
        "nic",
    )
    SENT = _vm("network_transmit_bytes_total", "Bytes that the guest has sent", Source.NOW, "nic")
    SENT_FRAMES = _vm(
        "network_transmit_packets_total", "Frames that the guest has sent", Source.NOW, "nic"
    )
    SEND_DROPS = _vm(
        "network_transmit_drop_total", "Frames of the guest that the node lost", Source.NOW, "nic"
    )
    FILTERED = _vm(
        "network_filtered_frames_total",
        "Frames of the guest that it may not send, by reason",
        Source.USAGE,
        "reason",
    )
    AGENT_AT = _vm(
        "agent_answer_timestamp_seconds", "When its guest agent answered last", Source.AGENT
    )
    USAGE_AT = _vm("usage_timestamp_seconds", "When the driver measured the VM last", Source.USAGE)
    MONITOR = _vm("monitor_up", "Whether QEMU answers on the daemon's monitor", Source.NOW)
    VIEWERS = _vm("viewers", "People at its screen and serial port", Source.NOW)


class Node:
    """Metrics of the node."""

    INFO = _node("info", "Always 1: versions", Source.NOW, "version", "driver_version", "kernel")
    VMS = _node("vms", "VMs by state, those that start included", Source.EVENT, "state")
    PROBLEMS = _node("problems", "What does not work at present", Source.DRIVER, "source")
    DRIVER_AT = _node(
        "driver_timestamp_seconds", "When the driver wrote down how the node is", Source.DRIVER
    )
    MEMORY_TOTAL = _node("memory_size_bytes", "Memory of the node", Source.NOW)
    MEMORY_AVAILABLE = _node(
        "memory_available_bytes", "Memory that programs can still get (MemAvailable)", Source.NOW
    )
    KSM_RUNNING = _node("ksm_running", "Whether KSM merges memory", Source.NOW)
    KSM_SAVED = _node("ksm_saved_bytes", "Memory that KSM saves", Source.NOW)
    KSM_SHARED = _node("ksm_shared_bytes", "Memory that the merged pages take", Source.NOW)
    KSM_PROFIT = _node("ksm_profit_bytes", "What KSM saves less what it takes", Source.NOW)
    KSM_SCANS = _node("ksm_full_scans_total", "Scans of all memory", Source.NOW, kind=Kind.COUNTER)
    DISK_SIZE = _node("disk_size_bytes", "File system of `paths.data`", Source.NOW)
    DISK_FREE = _node("disk_free_bytes", "What is free of it", Source.NOW)
    DISK_RESERVE = _node("disk_reserve_bytes", "What is kept free of it", Source.NOW)
    IMAGES = _node("images", "Images in the cache", Source.CACHE)
    IMAGES_USED = _node("images_in_use", "Images that VMs run on", Source.CACHE)
    IMAGES_BYTES = _node("images_bytes", "Space that the images take", Source.CACHE)
    IMAGES_USED_BYTES = _node("images_in_use_bytes", "The same of those in use", Source.CACHE)
    IMAGES_AT = _node("images_timestamp_seconds", "When the cache was read", Source.CACHE)
    STARTS = _node(
        "vm_starts_total",
        "Starts of VMs since the boot, by result",
        Source.DRIVER,
        "result",
        kind=Kind.COUNTER,
    )
    START_FAILURES = _node(
        "vm_start_failures_total",
        "Starts that failed, by step",
        Source.DRIVER,
        "step",
        kind=Kind.COUNTER,
    )
    START_TIME = _node(
        "vm_start_duration_seconds",
        "How long starts took that succeeded",
        Source.DRIVER,
        kind=Kind.SUMMARY,
    )
    ENDS = _node(
        "vm_ends_total",
        "VMs that have ended since the boot",
        Source.DRIVER,
        "outcome",
        kind=Kind.COUNTER,
    )


def of_vms() -> tuple[Metric, ...]:
    """Return the metrics of VMs, in the order of the page."""
    return tuple(value for value in vars(VM).values() if isinstance(value, Metric))


def of_node() -> tuple[Metric, ...]:
    """Return those of the node."""
    return tuple(value for value in vars(Node).values() if isinstance(value, Metric))
