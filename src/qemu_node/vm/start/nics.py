"""A VM's NICs in QEMU's terms, and as they are written down: pure.

Owns matching the NICs that were asked for with the ports that were set up for them.
"""

from collections.abc import Sequence

from qemu_node.net.port.tap import Tap
from qemu_node.net.portspec import PortSpec
from qemu_node.qemu.spec import PortForward, TapNic, UserNic
from qemu_node.vm.record.record import NicRecord
from qemu_node.vm.start.request import VMRequest


def ports_of(request: VMRequest) -> list[PortSpec]:
    """Return the NICs that are ports of the bridge."""
    return [nic for nic in request.nics if isinstance(nic, PortSpec)]


def qemu_nics(
    request: VMRequest, taps: Sequence[Tap], hostname: str
) -> tuple[UserNic | TapNic, ...]:
    """Return the NICs for QEMU's command line.

    Args:
        request: What was asked for.
        taps: Those of its ports, in the order of `ports_of`.
        hostname: What the guest is called by user mode's DHCP.
    """
    left = iter(taps)
    return tuple(
        _tap_nic(nic, next(left))
        if isinstance(nic, PortSpec)
        else UserNic(mac=nic.mac, hostname=hostname, forwards=_forwards(request))
        for nic in request.nics
    )


def nic_records(request: VMRequest) -> tuple[NicRecord, ...]:
    """Return what is written down of the NICs."""
    return tuple(
        NicRecord.of_port(nic)
        if isinstance(nic, PortSpec)
        else NicRecord(mode="user", mac=nic.mac, forwards=request.forwards)
        for nic in request.nics
    )


def _tap_nic(port: PortSpec, tap: Tap) -> TapNic:
    return TapNic(mac=port.mac, tap_fds=tap.fds, vhost_fds=tap.vhost_fds, mtu=port.mtu)


def _forwards(request: VMRequest) -> tuple[PortForward, ...]:
    return tuple(
        PortForward(
            host_ip=forward.host_ip, host_port=forward.host_port, guest_port=forward.guest_port
        )
        for forward in request.forwards
    )
