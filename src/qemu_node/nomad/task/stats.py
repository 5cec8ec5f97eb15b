"""A VM's resource use as Nomad's TaskStats: pure.

Nomad shows the fields that `measured_fields` lists. For memory only `usage` is reported, not the
resident size: it means nothing for guests whose memory is merged, and `alloc status` would prefer
it.
"""

import time

from google.protobuf.timestamp_pb2 import Timestamp

from qemu_node.nomad.proto import driver_pb2
from qemu_node.vm.life.usage import CpuShare


def build_stats(
    task_id: str, cpu: CpuShare, pss_bytes: int, *, mhz_per_core: float
) -> driver_pb2.TaskStatsResponse:
    """Return one measurement.

    Args:
        task_id: Nomad's id of the task.
        cpu: Use since the last measurement, in percent of one core.
        pss_bytes: Proportional set size of QEMU.
        mhz_per_core: Nomad's MHz of one core; `total_ticks` is in MHz.
    """
    now = Timestamp()
    now.FromNanoseconds(time.time_ns())
    cpu_fields = driver_pb2.CPUUsage.Fields
    return driver_pb2.TaskStatsResponse(
        stats=driver_pb2.TaskStats(
            id=task_id,
            timestamp=now,
            agg_resource_usage=driver_pb2.TaskResourceUsage(
                cpu=driver_pb2.CPUUsage(
                    system_mode=cpu.system_pct,
                    user_mode=cpu.user_pct,
                    percent=cpu.total_pct,
                    total_ticks=cpu.total_pct / 100 * mhz_per_core,
                    measured_fields=[
                        cpu_fields.SYSTEM_MODE,
                        cpu_fields.USER_MODE,
                        cpu_fields.TOTAL_TICKS,
                        cpu_fields.PERCENT,
                    ],
                ),
                memory=driver_pb2.MemoryUsage(
                    usage=pss_bytes, measured_fields=[driver_pb2.MemoryUsage.Fields.USAGE]
                ),
            ),
        )
    )
