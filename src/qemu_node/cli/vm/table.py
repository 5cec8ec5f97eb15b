"""How `vm list` and `vm show` present what they found: pure.

Owns the columns and the shape of `--json`. Does not own finding it (`inventory.state`,
`inventory.report`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import msgspec

from qemu_node.cli.terminal import Cell, Column, Row, short_size, short_time
from qemu_node.images.store.keptimage import file_name
from qemu_node.inventory.access import reachable_address
from qemu_node.inventory.report import VMReport
from qemu_node.inventory.state import VMStatus, VMSummary
from qemu_node.units import format_size
from qemu_node.vlans import format_vlans
from qemu_node.vm.life.guestnet import GuestNetwork
from qemu_node.vm.record.record import NicRecord, VMRecord

COLUMNS = (
    Column("VM"),
    Column("Name"),
    Column("State"),
    Column("OS", droppable=2),
    Column("CPU", is_number=True),
    Column("Memory", is_number=True),
    Column("Uptime", is_number=True, droppable=1),
    Column("Image", droppable=3),
)
WIDE_COLUMNS = (
    *(Column(column.title, is_number=column.is_number) for column in COLUMNS),
    Column("Reachable at"),
    Column("Guest name"),
    Column("Guest address"),
)
"""`vm list --wide`: shown whole, however narrow the terminal."""

_STYLES = {
    VMStatus.RUNNING: "green",
    VMStatus.DISK_FULL: "red",
    VMStatus.UNMANAGED: "yellow",
    VMStatus.STARTING: "cyan",
    VMStatus.ENDED: "dim",
    VMStatus.UNREADABLE: "red",
    VMStatus.ORPHAN: "red",
}

Guests = Mapping[str, GuestNetwork]
"""What the guests' agents say, by vm_id; a VM whose agent does not answer is not in it."""

_SILENT = GuestNetwork(host_name="", addresses=())


def rows(vms: Sequence[VMSummary], guests: Guests | None = None) -> list[Row]:
    """Return the table's rows; with `guests`, those of the wide table."""
    return [_row(vm) + ([] if guests is None else _guest_cells(vm, guests)) for vm in vms]


def _row(vm: VMSummary) -> list[Cell]:
    record = vm.record
    return [
        Cell(vm.vm_id),
        Cell(record.display_name if record else ""),
        Cell(vm.status.value, _STYLES[vm.status]),
        Cell(record.hardware.os if record else ""),
        Cell(_cpu(vm)),
        Cell(_memory(vm)),
        Cell("" if vm.uptime_s is None else short_time(vm.uptime_s)),
        Cell(file_name(record.image) if record else ""),
    ]


def _cpu(vm: VMSummary) -> str:
    """Return the use in percent of one core, and of how many."""
    if vm.record is None:
        return ""
    used = "-" if vm.cpu_pct is None else f"{vm.cpu_pct:.0f}%"
    return f"{used} of {vm.record.hardware.vcpus}"


def _memory(vm: VMSummary) -> str:
    """Return what the VM takes of the host, where known, and what its guest has."""
    if vm.record is None:
        return ""
    size = short_size(vm.record.memory_bytes)
    return size if vm.pss_bytes is None else f"{short_size(vm.pss_bytes)}/{size}"


def _guest_cells(vm: VMSummary, guests: Guests) -> list[Cell]:
    reachable = "" if vm.record is None else reachable_address(vm.record)
    guest = guests.get(vm.vm_id, _SILENT)
    return [Cell(reachable), Cell(guest.host_name), Cell(" ".join(guest.addresses))]


def to_json(vms: Sequence[VMSummary], guests: Guests | None = None) -> list[object]:
    """Return what `vm list --json` prints; sizes in bytes, times in seconds."""
    return [
        {
            "vm_id": vm.vm_id,
            "name": vm.record.display_name if vm.record else None,
            "state": vm.status.value,
            "pid": vm.pid,
            "uptime_s": None if vm.uptime_s is None else round(vm.uptime_s, 1),
            "cpu_pct": None if vm.cpu_pct is None else round(vm.cpu_pct, 1),
            "pss_bytes": vm.pss_bytes,
        }
        | ({} if vm.record is None else _listed_fields(vm.record))
        | ({} if guests is None else _guest_fields(guests.get(vm.vm_id, _SILENT)))
        for vm in vms
    ]


def _guest_fields(guest: GuestNetwork) -> dict[str, object]:
    return {"guest_name": guest.host_name, "addresses": list(guest.addresses)}


def _listed_fields(record: VMRecord) -> dict[str, object]:
    return {
        "alloc_id": record.identity.alloc_id,
        "namespace": record.identity.namespace,
        "job_id": record.identity.job_id,
        "group": record.identity.group,
        "task": record.identity.task,
        "index": record.identity.index,
        "os": record.hardware.os,
        "vcpus": record.hardware.vcpus,
        "memory_bytes": record.memory_bytes,
        "image": record.image,
        "reachable_at": reachable_address(record),
    }


def report_to_json(report: VMReport) -> dict[str, object]:
    """Return what `vm show --json` prints: vm.json, and what was asked for."""
    summary = report.summary
    agent = {"problem": report.agent_problem} if report.agent is None else asdict(report.agent)
    return {
        **msgspec.structs.asdict(report.record),
        "name": report.record.display_name,
        "state": summary.status.value,
        "pid": summary.pid,
        "uptime_s": summary.uptime_s,
        "cpu_pct": summary.cpu_pct,
        "pss_bytes": summary.pss_bytes,
        "drops": dict(summary.drops),
        "disk": None if summary.disk is None else msgspec.structs.asdict(summary.disk),
        "qemu": {
            "run_state": report.run_state,
            "version": report.qemu_version,
            "problem": report.qemu_problem,
        },
        "agent": agent,
    }


def report_lines(report: VMReport) -> list[tuple[str, str]]:
    """Return what `vm show` prints: a name and a value each."""
    record, summary = report.record, report.summary
    lines = [
        ("VM", record.vm_id),
        ("name", record.display_name),
        ("state", _state(report)),
        ("job", f"{record.identity.job_id} in namespace {record.identity.namespace}"),
        ("group, task", f"{record.identity.group}{_index(record)}, {record.identity.task}"),
        ("allocation", record.identity.alloc_id),
        ("alloc dir", record.alloc_dir),
        ("created", record.created_at),
        ("uptime", "-" if summary.uptime_s is None else short_time(summary.uptime_s)),
        ("process", "-" if summary.pid is None else str(summary.pid)),
        ("QEMU", report.qemu_version or f"unknown: {report.qemu_problem}"),
        ("os", record.hardware.os),
        ("firmware", record.hardware.firmware),
        *_hardware_lines(record),
        ("accelerator", record.accelerator),
        ("image", record.image),
        ("uuid", record.uuid),
        ("host name", record.hostname),
        ("CPU", _cpu(summary) + " vCPU"),
        ("memory", _memory_words(summary, record)),
    ]
    if summary.disk is not None and summary.disk.pauses:
        lines.append(("disk full", f"paused it {summary.disk.pauses} times so far"))
    lines += _nic_lines(record)
    if record.ports:
        words = (f"{count} {reason}" for reason, count in summary.drops.items())
        lines.append(("frames dropped", ", ".join(words) or "none"))
    lines += _agent_lines(report)
    lines += [
        (f"{name} socket", path)
        for name, path in msgspec.structs.asdict(record.sockets).items()
        if path is not None
    ]
    return lines


def _hardware_lines(record: VMRecord) -> list[tuple[str, str]]:
    """Return what else the job decided of the hardware, each under the option's name."""
    return [
        (name, msgspec.json.encode(value).decode())
        for name, value in msgspec.structs.asdict(record.hardware).items()
        if name not in ("os", "firmware", "vcpus")
    ]


def _state(report: VMReport) -> str:
    state = report.summary.status.value
    if report.summary.status is VMStatus.UNMANAGED:
        state += " (no driver holds it; the next one takes it up)"
    if report.summary.status is VMStatus.UNREADABLE:
        state += " (a newer driver started it, or its state.json is damaged; no driver removes it)"
    if report.summary.status is VMStatus.DISK_FULL:
        state += " (it goes on when the node's disk has room again)"
    if report.run_state is not None and report.run_state != "running":
        state += f"; QEMU says {report.run_state}"
    return state


def _index(record: VMRecord) -> str:
    return "" if record.identity.index is None else f"[{record.identity.index}]"


def _memory_words(summary: VMSummary, record: VMRecord) -> str:
    words = format_size(record.memory_bytes)
    if record.memory_max_bytes > record.memory_min_bytes:
        words += (
            f" (from {format_size(record.memory_min_bytes)} to "
            f"{format_size(record.memory_max_bytes)})"
        )
    if summary.pss_bytes is not None:
        words += f", {format_size(summary.pss_bytes)} of the host in use"
    return words


def _nic_lines(record: VMRecord) -> list[tuple[str, str]]:
    lines = []
    for n, nic in enumerate(record.nics):
        lines.append((f"NIC {n}", _nic_words(nic)))
        lines += [
            (
                f"port {forward.label}",
                f"{forward.host_ip}:{forward.host_port} → guest port {forward.guest_port}",
            )
            for forward in nic.forwards
        ]
    return lines


def _nic_words(nic: NicRecord) -> str:
    """Return mode, VLANs, addresses and limits of a NIC on one line."""
    if nic.ifname is None:
        return f"user mode, {nic.mac}"
    words = [
        f"VLAN {nic.vlan}" if nic.vlan is not None else f"trunk of VLANs {format_vlans(nic.trunk)}",
        nic.mac,
        nic.ifname,
    ]
    words += ["isolated"] if nic.isolated else []
    words += ["strict"] if nic.strict else []
    words += [f"{nic.queues} queues"] if nic.queues > 1 else []
    words += [f"MTU {nic.mtu}"] if nic.mtu is not None else []
    words += [f"{nic.rate_mbit} Mbit/s"] if nic.rate_mbit is not None else []
    words += [f"addresses in {' '.join(nic.addresses)}"] if nic.addresses else []
    return ", ".join(words)


def _agent_lines(report: VMReport) -> list[tuple[str, str]]:
    agent = report.agent
    if agent is None:
        return [("guest agent", f"no answer: {report.agent_problem}")]
    exec_words = "commands allowed" if report.record.allow_exec else "commands not allowed"
    lines = [
        ("guest agent", f"{agent.version}, {exec_words}"),
        ("guest OS", " ".join(part for part in (agent.os, agent.kernel) if part) or "-"),
        ("guest name", agent.host_name or "-"),
    ]
    lines += [
        (f"guest {interface.name}", " ".join(interface.addresses) or "no address")
        for interface in agent.interfaces
        if interface.mac
    ]
    return lines
