"""Guests are asked in turn, whatever happens to one of them."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from qemu_node.inventory.state import VMStatus, VMSummary
from qemu_node.vm.life.guestnet import GuestNetwork
from qemu_node.web.fleet import guests as module
from qemu_node.web.fleet.guests import GuestAsker
from qemu_node.web.fleet.monitors import Monitor

NETWORK = GuestNetwork(host_name="guest", addresses=())
MONITOR = cast("Monitor", SimpleNamespace(is_own=False))


def vm(vm_id: str) -> VMSummary:
    return VMSummary(vm_id=vm_id, status=VMStatus.RUNNING)


class Asked:
    """Which guests have answered."""

    def __init__(self) -> None:
        self.answered: list[str] = []
        self.fails = ""
        """The one whose question fails."""

    async def ask(self, vm: VMSummary) -> GuestNetwork | None:
        if vm.vm_id == self.fails:
            raise KeyError("a bug")
        return NETWORK

    async def until(self, *vm_ids: str) -> None:
        async with asyncio.timeout(60):
            while not set(vm_ids) <= set(self.answered):
                await asyncio.sleep(0.01)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.setattr(module, "_FIRST_S", 0.0)
    return Asked()


async def test_a_guest_that_ends_before_its_turn_keeps_no_other_from_being_asked(
    asked: Asked,
) -> None:
    asker = GuestAsker(on_answer=asked.answered.append, ask=asked.ask)
    asker.follow(vm("first"), MONITOR)
    asker.follow(vm("second"), MONITOR)
    task = asyncio.ensure_future(asker.ask_agents())
    # It runs after the choice of whom to ask, and before they are asked.
    asyncio.get_running_loop().call_soon(asker.forget, "first")
    await asked.until("second")
    asker.follow(vm("third"), MONITOR)
    await asked.until("third")
    task.cancel()


async def test_a_bug_with_one_guest_keeps_no_other_from_being_asked(asked: Asked) -> None:
    asker = GuestAsker(on_answer=asked.answered.append, ask=asked.ask)
    asked.fails = "first"
    asker.follow(vm("first"), MONITOR)
    task = asyncio.ensure_future(asker.ask_agents())
    while not asker.facts("first").silences:
        await asyncio.sleep(0.01)
    asker.follow(vm("second"), MONITOR)
    await asked.until("second")
    task.cancel()
