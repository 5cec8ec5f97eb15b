"""The guest's own address in Nomad: in the task's events, and as that of its services.

Owns how long it is waited for and what is told when. Does not own which address is believed
(`vm.guestnet`).

Nomad takes a driver's address from the answer to StartTask alone, and never asks again (client of
2.0.6-dev, seen run). So a start that is to advertise waits for the guest, and a guest that comes up
later than that is told of and not advertised.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from qemu_node.host.concurrency.cancellation import race
from qemu_node.nomad.proto import driver_pb2
from qemu_node.vm.life.guestnet import GuestNetwork, until_addressed
from qemu_node.vm.life.machine import VM
from qemu_node.vm.node import Tell
from qemu_node.vm.record.record import NicRecord
from qemu_node.vm.start.request import Advertise

_NEWS_LIMIT_S = 900.0
"""How long a guest is asked for the event's sake; `qemu-node vm show` asks at any time."""

_IPV4_WAIT_S = 10.0
"""What DHCP gets after the guest's first address; half of the time where that is less."""


async def wait_to_advertise(
    vm: VM, advertise: Advertise, tell: Tell
) -> driver_pb2.NetworkOverride | None:
    """Return what Nomad is to advertise once the guest has told it; None if it does not in time.

    Also None, at once, where the VM ends first.
    """
    nic = vm.record.nics[advertise.nic]
    found = await _ask(vm, (nic,), advertise.wait_s)
    if found is not None:
        _tell(tell, found, "; its services advertise it")
        # Not for services with address_mode "auto": their port would be the label's `to`, which is
        # 0 unless the job sets it.
        return driver_pb2.NetworkOverride(addr=found.addresses[0], auto_advertise=False)
    if vm.exit is None:
        tell(
            f"guest {vm.record.hostname} told no address on {nic.mac} within "
            f'{advertise.wait_s:g} s: services with address_mode "driver" are not registered',
            {"mac": nic.mac},
        )
    return None


async def tell_of_address(vm: VM, tell: Tell) -> None:
    """Tell which addresses the guest has on its ports of the bridge, once it has one."""
    ports = [nic for nic in vm.record.nics if nic.ifname is not None]
    found = await _ask(vm, ports, _NEWS_LIMIT_S) if ports else None
    if found is not None:
        _tell(tell, found, "")


def _tell(tell: Tell, found: GuestNetwork, more: str) -> None:
    addresses = ", ".join(found.addresses)
    tell(
        f"guest {found.host_name} has {addresses}{more}",
        {"host_name": found.host_name, "addresses": addresses},
    )


async def _ask(vm: VM, nics: Sequence[NicRecord], limit_s: float) -> GuestNetwork | None:
    """Return what the guest says, None if it says nothing within `limit_s` or ends."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            asking = until_addressed(vm.agent, nics, ipv4_wait_s=min(_IPV4_WAIT_S, limit_s / 2))
            _, found = await race(asking, _end(vm))
            return found
    return None


async def _end(vm: VM) -> None:
    await vm.wait()
