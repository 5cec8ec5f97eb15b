"""Text that is typed into a real guest's text console, followed by the console's own fleet."""

import base64
import contextlib
import random
import string
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from integration.vmnode import VMNode, until

from qemu_node.qmp import commands
from qemu_node.vm.life.machine import VM
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.http.problems import Problem
from qemu_node.web.viewer.keys.layouts import load
from qemu_node.web.viewer.keys.paste import PER_SECOND, Pastes, PasteState, PasteView
from qemu_node.web.viewer.keys.strokes import plan_strokes
from qemu_node.web.viewer.keys.typist import press

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(600)]

# The terminal stays open: its raw mode ends with the last who has it open.
SCRIPT = """#!/bin/sh
exec 3<>/dev/tty1
stty raw -echo <&3
take() {{
    echo "take $1"
    timeout 100 dd bs=1 count=$2 <&3 2>/dev/null | base64 -w 0
    echo " taken $1"
}}
take text {size}
take key 1
while :; do
    key=$(dd bs=1 count=1 <&3 2>/dev/null)
    case $key in y | Y) break ;; esac
done
echo "last key: $key."
"""
_CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " " * 20 + "\t" * 2


@pytest.fixture
def image(small_guest_image: Path) -> Path:
    return small_guest_image


@pytest.fixture
async def fleet(node: VMNode) -> AsyncIterator[Fleet]:
    async with Fleet(node.paths) as fleet:
        yield fleet


@pytest.fixture
async def pastes(fleet: Fleet) -> AsyncIterator[Pastes]:
    async with Pastes(fleet) as pastes:
        yield pastes


def text_of(size: int) -> str:
    return "".join(random.Random(12).choices(_CHARACTERS, k=size))


async def paste(pastes: Pastes, vm: VM, text: str) -> PasteView:
    return await pastes.start(
        vm.record.vm_id,
        plan_strokes(load("us"), text),
        per_second=PER_SECOND,
        may_go_on=lambda: True,
        session=contextlib.nullcontext(),
    )


async def taken(node: VMNode, what: str) -> bytes:
    log = await node.printed(f" taken {what}")
    return base64.b64decode(log.partition(f"take {what}")[2].partition(" taken")[0])


async def test_six_hundred_characters_arrive_and_an_abort_leaves_no_key_down(
    node: VMNode, fleet: Fleet, pastes: Pastes
) -> None:
    text = text_of(600)
    vm = await node.start(node.request(user_data=SCRIPT.format(size=len(text))))
    vm_id = vm.record.vm_id
    await node.printed("take text", timeout_s=400)
    await until(lambda: fleet.get(vm_id), lambda view: view is not None, "VM in the fleet")
    begun = await paste(pastes, vm, text)
    arrived = await taken(node, "text")
    assert arrived.decode() == text
    done = pastes.get(vm_id, begun.id)
    assert (done.typed, done.characters) == (600, 600)

    # Somebody else holds Shift down when a paste is aborted: it is up afterwards.
    await until(
        lambda: pastes.get(vm_id, begun.id).state, lambda s: s is PasteState.DONE, "the end"
    )
    async with fleet.monitor(vm_id) as qmp:
        await commands.input_send_event(qmp, [("shift", True)])
    again = await paste(pastes, vm, "x" * 500)
    assert (await taken(node, "key")) == b"X"
    aborted = await pastes.abort(vm_id, again.id)
    assert aborted.state is PasteState.ABORTED
    assert aborted.typed < 500
    await press(fleet, vm_id, ["y"])
    assert "last key: y." in await node.printed("last key")


async def test_nothing_is_typed_into_a_guest_that_is_paused(
    node: VMNode, fleet: Fleet, pastes: Pastes
) -> None:
    vm = await node.start(node.request(user_data=SCRIPT.format(size=600)))
    vm_id = vm.record.vm_id
    await node.printed("take text", timeout_s=400)
    begun = await paste(pastes, vm, text_of(600))
    async with fleet.monitor(vm_id) as qmp:
        await qmp.execute("stop")
        found = await until(
            lambda: pastes.get(vm_id, begun.id),
            lambda view: view.state is not PasteState.TYPING,
            "the end of the paste",
        )
        assert (found.state, found.message) == (PasteState.ABORTED, "the guest was paused")
        with pytest.raises(Problem, match="does not run"):
            await paste(pastes, vm, "a")
        await qmp.execute("cont")
    # A reset of the guest ends a paste as well.
    begun = await paste(pastes, vm, text_of(600))
    async with fleet.monitor(vm_id) as qmp:
        await commands.system_reset(qmp)
    found = await until(
        lambda: pastes.get(vm_id, begun.id),
        lambda view: view.state is not PasteState.TYPING,
        "the end of the paste",
    )
    assert found.message == "the guest was reset"
