"""The driver under a real Nomad agent, with a guest that boots under Secure Boot."""

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from e2e.nomad_agent import NomadAgent
from e2e.nomad_node import Node, running_agent

from qemu_node.host import process

pytestmark = [
    pytest.mark.needs_nomad,
    pytest.mark.needs_root,
    pytest.mark.needs_qemu,
    pytest.mark.timeout(900),
]

JOB = """
job "{name}" {{
  type = "service"
  group "g" {{
    count = {count}
    restart {{
      attempts = 0
      mode     = "fail"
    }}
    reschedule {{
      attempts  = 0
      unlimited = false
    }}
    task "{task}" {{
      driver       = "vm"
      kill_timeout = "{kill_timeout}"
      config {{
        image = "{image}"
        guest_agent {{
          allow_exec = true
        }}
        {config}
      }}
      template {{
        destination = "local/config-drive/openstack/latest/user_data"
        data        = <<EOT
{user_data}
EOT
      }}
      resources {{
        cpu    = 200
        memory = 512
      }}
    }}
  }}
}}
"""


def job_text(
    image: Path,
    name: str,
    *,
    count: int = 1,
    task: str = "vm",
    user_data: str = "",
    config: str = "",
    kill_timeout: str = "20s",
) -> str:
    return JOB.format(
        name=name,
        image=image,
        count=count,
        task=task,
        user_data=user_data,
        config=config,
        kill_timeout=kill_timeout,
    )


@pytest.fixture
def node(short_tmp_path: Path, small_guest_image: Path) -> Node:
    return Node(short_tmp_path, small_guest_image)


@pytest.fixture
async def nomad(node: Node) -> AsyncIterator[NomadAgent]:
    async with running_agent(node) as agent:
        yield agent


async def guest_log(nomad: NomadAgent, alloc_id: str, text: str) -> str:
    """Return the task's stdout once it holds `text`."""

    async def read() -> str:
        done = await nomad.command("alloc", "logs", "-stdout", alloc_id)
        return done.stdout.decode(errors="replace")

    return str(await nomad.until(read, lambda log: text in log, f"{text!r} in the log"))


async def test_a_vm_lives_through_agent_and_plugin_restarts_and_leaves_nothing(
    nomad: NomadAgent, node: Node, small_guest_image: Path
) -> None:
    job = await nomad.run_job(job_text(small_guest_image, "life"))
    (allocation,) = await nomad.running_allocations(job)
    alloc_id = allocation["ID"]
    (record,) = node.records()

    log = await guest_log(nomad, alloc_id, "small guest ready")
    assert "secure_boot=yes" in log
    assert "\x1b" not in log
    tail = await nomad.command("alloc", "logs", "-stdout", "-tail", "-n", "1", alloc_id)
    assert "small guest ready" in tail.stdout.decode()

    done = await nomad.command(
        "alloc",
        "exec",
        "-t=false",
        "-i=false",
        alloc_id,
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    )
    assert (done.returncode, done.stdout.strip()) == (7, b"out")
    assert b"err" in done.stderr

    for end_agent in (signal.SIGTERM, signal.SIGKILL):
        await nomad.stop(end_agent)
        assert process.is_alive(record.process)
        await nomad.start()
        await nomad.running_allocations(job)
        assert node.records()[0].process == record.process

    plugin = nomad.plugin()
    process.send_signal(plugin, signal.SIGKILL)
    await process.wait_gone(plugin)
    # The exec can only be answered by a new plugin that has recovered the task.
    await nomad.until(
        lambda: nomad.command("alloc", "exec", "-t=false", "-i=false", alloc_id, "true"),
        lambda finished: finished.returncode == 0,
        "a recovered task",
    )
    assert node.records()[0].process == record.process

    task_states = (await nomad.get(f"/v1/allocation/{alloc_id}"))["TaskStates"]["vm"]
    assert task_states["Restarts"] == 0
    await nomad.stop_job(job)
    assert not process.is_alive(record.process)

    async def leftovers() -> list[Path]:
        return node.leftovers()

    await nomad.until(leftovers, lambda left: left == [], "clean node")


async def test_the_end_of_a_guest_is_an_ordinary_exit_whoever_was_there_to_see_it(
    nomad: NomadAgent, node: Node, small_guest_image: Path
) -> None:
    job = await nomad.run_job(
        job_text(
            small_guest_image,
            "panics",
            user_data="#!/bin/sh\n(sleep 15; echo c >/proc/sysrq-trigger) &\n",
        )
    )
    await nomad.running_allocations(job)
    await nomad.stop(signal.SIGTERM)
    (record,) = node.records()
    await nomad.start()
    (allocation,) = await nomad.until(
        lambda: nomad.allocations(job),
        lambda all_: all_[0]["ClientStatus"] == "failed",
        "failed allocation",
    )
    events = allocation["TaskStates"]["vm"]["Events"]
    terminated = next(event for event in events if event["Type"] == "Terminated")
    assert "panicked" in json.dumps(terminated)
    assert not process.is_alive(record.process)


async def test_a_job_that_cannot_start_says_why(nomad: NomadAgent, small_guest_image: Path) -> None:
    job = await nomad.run_job(job_text(small_guest_image.with_name("absent.qcow2"), "absent"))
    (allocation,) = await nomad.until(
        lambda: nomad.allocations(job),
        lambda all_: bool(all_) and all_[0]["ClientStatus"] == "failed",
        "failed allocation",
    )
    assert "absent.qcow2" in json.dumps(allocation["TaskStates"])


async def test_a_service_counts_the_vm_as_used_and_reports_its_memory(
    nomad: NomadAgent, small_guest_image: Path
) -> None:
    job = await nomad.run_job(job_text(small_guest_image, "stats"))
    (allocation,) = await nomad.running_allocations(job)

    async def stats() -> object:
        return await nomad.get(f"/v1/client/allocation/{allocation['ID']}/stats")

    usage = await nomad.until(
        stats,
        lambda reply: reply["ResourceUsage"]["MemoryStats"]["Usage"] > 64 << 20,
        "memory in the stats",
    )
    assert usage["ResourceUsage"]["CpuStats"]["Percent"] >= 0
