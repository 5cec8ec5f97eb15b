"""A node under a real Nomad agent goes down and comes back."""

import sys
from pathlib import Path

import pytest
from e2e.nomad_agent import NomadAgent
from e2e.nomad_node import Node, running_agent

from bench.rig.jobtext import job_text
from qemu_node.host.process import command, identity

pytestmark = [
    pytest.mark.needs_nomad,
    pytest.mark.needs_root,
    pytest.mark.needs_qemu,
    pytest.mark.timeout(900),
]


@pytest.fixture
def node(short_tmp_path: Path, small_guest_image: Path) -> Node:
    return Node(short_tmp_path, small_guest_image)


async def stop_all(node: Node) -> command.Completed:
    """Do what qemu-node-vms.service does after Nomad has ended."""
    modules = ":".join(filter(None, sys.path))
    return await command.run(
        [
            *(sys.executable, "-m", "qemu_node", "--config", str(node.node_toml)),
            *("vm", "stop", "--all", "--timeout", "60s"),
        ],
        env={**command.SAFE_ENV, "PYTHONPATH": modules},
        timeout_s=120,
    )


async def guest_is_ready(nomad: NomadAgent, alloc_id: str) -> None:
    async def read() -> str:
        done = await nomad.command("alloc", "logs", "-stdout", "-task", "vm", alloc_id)
        return done.stdout.decode(errors="replace")

    await nomad.until(read, lambda log: "small guest ready" in log, "a guest that is ready")


async def test_vms_end_cleanly_with_their_node_and_start_again_without_counting_as_failed(
    node: Node, small_guest_image: Path
) -> None:
    async with running_agent(node) as nomad:
        # Its restart policy allows no restart at all.
        config = f'image = "{small_guest_image}"\nfirmware = "bios"'
        job = await nomad.run_job(job_text("stays", config))
        (allocation,) = await nomad.running_allocations(job)
        (record,) = node.records()
        await guest_is_ready(nomad, allocation["ID"])

        await nomad.stop()
        done = await stop_all(node)
        assert b"1 of 1 VMs ended: 1 by their guest agents" in done.stderr
        assert not identity.is_alive(record.process)

        await nomad.start()
        events = await nomad.until(
            lambda: nomad.events(allocation["ID"], "vm"),
            lambda events: events.count("Task started by client") == 2,
            "the start after the boot",
        )
        (again,) = await nomad.running_allocations(job)
        assert again["ID"] == allocation["ID"]
        assert node.records()[0].vm_id == record.vm_id
        assert identity.is_alive(node.records()[0].process)
        state = again["TaskStates"]["vm"]
        assert (state["Restarts"], state["Failed"]) == (0, False)
        assert any(event.startswith("failed to restore task") for event in events)
        assert not any("Exit Code" in event for event in events)
        log = await nomad.command("alloc", "logs", "-stdout", "-task", "vm", allocation["ID"])
        assert b"reboot: Power down" in log.stdout
        log = await nomad.command("alloc", "logs", "-stderr", "-task", "vm", allocation["ID"])
        assert b"VM ended: it was stopped with its node; its task starts again" in log.stdout
