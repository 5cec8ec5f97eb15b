"""Limits on how fast a guest sends and receives: traffic control on its TAP.

Owns the queueing disciplines. The only user of pyroute2, which can compute a token bucket's rate
table.
"""

from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.net.errors import NetworkError
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.netlink.traffic import police

_BITS_PER_MBIT = 1_000_000
_BURST_S = 0.05
_BURST_MIN_BYTES = 256 * 1024
"""A guest sends segments of up to 64 KiB; one that is larger than the burst never passes."""
_SEGMENT_MAX_BYTES = 128 * 1024
"""The policer drops every longer frame. Its default is 2 KiB."""
_LATENCY_US = 50_000


async def limit_rate(ifindex: int, rate_mbit: int) -> None:
    """Limit a TAP to `rate_mbit` megabits a second in each direction.

    Towards the guest a token bucket delays frames, with a buffer of 50 ms. From the guest a
    policer drops them, because the node must not queue a guest's frames. The kernel removes both
    with the TAP.

    Raises:
        NetworkError: the kernel refused, or lacks sch_tbf, cls_matchall or act_police.
    """
    # Importing pyroute2 takes 0.1 s: import it only if a job has a limit.
    from pyroute2 import AsyncIPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    rate_bytes_per_s = rate_mbit * _BITS_PER_MBIT // 8
    burst_bytes = max(int(rate_bytes_per_s * _BURST_S), _BURST_MIN_BYTES)
    with RouteSocket() as plain:
        await to_the_end(
            plain.do, *police(ifindex, rate_bytes_per_s, burst_bytes, _SEGMENT_MAX_BYTES)
        )
    try:
        async with AsyncIPRoute() as route:
            await route.tc(
                "replace",
                "tbf",
                ifindex,
                rate=rate_bytes_per_s,
                burst=burst_bytes,
                latency=_LATENCY_US,
            )
    except (NetlinkError, OSError) as exc:
        raise NetworkError(
            f"cannot limit the NIC to {rate_mbit} Mbit/s: {exc.args[-1]}",
            hint="the kernel needs sch_tbf, cls_matchall and act_police",
        ) from exc
