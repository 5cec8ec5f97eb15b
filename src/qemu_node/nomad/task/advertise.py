"""The guest's own address in Nomad: in the task's events, and as the address of its services.

Owns how long we wait for the address and what is told when. Does not own which address is trusted
(`vm.life.guestnet`).

Nomad takes the address only from the answer to StartTask and never asks again (client of
2.0.6-dev, as observed). So a start that is to advertise an address waits for the guest. The address
of a guest that comes up later is told in an event but not advertised.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from qemu_node.host.concurrency.cancellation import race
from qemu_node.nomad.proto import driver_pb2
from qemu_node.vm.life.guestnet import GuestNetwork, until_addressed
from qemu_node.vm.life.machine import VM
from qemu_node.vm.record.record import NicRecord
from qemu_node.vm.services import Tell
from qemu_node.vm.start.request import Advertise

_NEWS_LIMIT_S = 900.0
"""How long we ask a guest for the event; `qemu-node vm show` asks at any time."""

_IPV4_WAIT_S = 10.0
"""Time for DHCP after the guest's first address; less if half of the wait is less."""


async def wait_to_advertise(
    vm: VM, advertise: Advertise, tell: Tell
) -> driver_pb2.NetworkOverride | None:
    """Return the address for Nomad to advertise; None if the guest does not tell it in time.

    Also None, at once, if the VM ends first.
    """
    nic = vm.record.nics[advertise.nic]
    found = await _ask(vm, (nic,), advertise.wait_s)
    if found is not None:
        _tell(tell, found, "; its services advertise it")
        # No auto_advertise: services with address_mode "auto" would get the label's `to` as their
        # port, which is 0 unless the job sets it.
        return driver_pb2.NetworkOverride(addr=found.addresses[0], auto_advertise=False)
    if vm.exit is None:
        tell(
            f"guest {vm.record.hostname} reported no address on {nic.mac} within "
            f'{advertise.wait_s:g} s: services with address_mode "driver" are not registered',
            {"mac": nic.mac},
        )
    return None


async def tell_of_address(vm: VM, tell: Tell) -> None:
    """Tell the guest's addresses on its ports of the bridge, once it has one."""
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
    """Return the guest's network; None if it reports no address within `limit_s`, or ends."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            asking = until_addressed(vm.agent, nics, ipv4_wait_s=min(_IPV4_WAIT_S, limit_s / 2))
            _, found = await race(asking, _end(vm))
            return found
    return None


async def _end(vm: VM) -> None:
    await vm.wait()
