"""The driver under a real Nomad agent, with a guest that boots under Secure Boot."""

import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from e2e.nomad_agent import NomadAgent
from e2e.nomad_node import Node, running_agent
from fakes.image_server import ImageServer, Resource

from bench.rig.jobtext import job_text, user_data
from qemu_node.cli.doctor.agentfacts import read_agent
from qemu_node.host.process import command, identity, pidfd
from qemu_node.run.allocation.placement import node_attributes
from qemu_node.run.jobfile.job import job_from_api

pytestmark = [
    pytest.mark.needs_nomad,
    pytest.mark.needs_root,
    pytest.mark.needs_qemu,
    pytest.mark.timeout(900),
]

FETCH_TASK = """
    task "fetch" {{
      driver = "raw_exec"
      lifecycle {{
        hook = "prestart"
      }}
      config {{
        command = "/bin/cp"
        args    = ["{image}", "${{NOMAD_ALLOC_DIR}}/data/disk.qcow2"]
      }}
    }}
"""


def vm_job(image: Path | str, name: str, *, config: str = "", **settings: Any) -> str:
    """Return a job whose VM lets `nomad alloc exec` run commands in its guest."""
    block = f'image = "{image}"\nguest_agent {{\n  allow_exec = true\n}}\n{config}'
    return job_text(name, block, **settings)


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
        done = await nomad.command("alloc", "logs", "-stdout", "-task", "vm", alloc_id)
        return done.stdout.decode(errors="replace")

    return str(await nomad.until(read, lambda log: text in log, f"{text!r} in the log"))


async def test_a_vm_lives_through_agent_and_plugin_restarts_and_leaves_nothing(
    nomad: NomadAgent, node: Node, small_guest_image: Path
) -> None:
    job = await nomad.run_job(vm_job(small_guest_image, "life"))
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
        assert identity.is_alive(record.process)
        await nomad.start()
        await nomad.running_allocations(job)
        assert node.records()[0].process == record.process

    plugin = nomad.plugin()
    pidfd.send_signal(plugin, signal.SIGKILL)
    await pidfd.wait_gone(plugin)
    await until_recovered(nomad, alloc_id)
    assert node.records()[0].process == record.process

    task_states = (await nomad.get(f"/v1/allocation/{alloc_id}"))["TaskStates"]["vm"]
    assert task_states["Restarts"] == 0
    await nomad.stop_job(job)
    assert not identity.is_alive(record.process)

    async def leftovers() -> list[Path]:
        return node.leftovers()

    await nomad.until(leftovers, lambda left: left == [], "clean node")


async def test_a_node_has_the_attributes_that_run_fills_in(nomad: NomadAgent) -> None:
    (node,) = await nomad.get("/v1/nodes")
    attributes = (await nomad.get(f"/v1/node/{node['ID']}"))["Attributes"]
    of_driver = {key: text for key, text in attributes.items() if key.startswith("driver.vm.")}
    assert "driver.vm.accelerator" in of_driver
    job = job_from_api({"ID": "j", "TaskGroups": []}, "j")
    ours = node_attributes(job, node["ID"], of_driver)
    # This agent's configuration says another size than the machine's.
    assert attributes["memory.totalbytes"]
    expected = {f"attr.{key}": text for key, text in attributes.items()} | {
        "attr.memory.totalbytes": ours["attr.memory.totalbytes"]
    }
    assert {key: expected.get(key) for key in ours if key.startswith("attr.")} == {
        key: text for key, text in ours.items() if key.startswith("attr.")
    }


async def until_recovered(nomad: NomadAgent, alloc_id: str) -> None:
    """Return once a driver has recovered the task: only such a one can answer."""
    await nomad.until(
        lambda: nomad.command("alloc", "exec", "-t=false", "-i=false", alloc_id, "true"),
        lambda done: done.returncode == 0,
        "a recovered task",
    )


async def test_a_wrong_node_toml_and_a_restart_of_the_agent_lose_no_vm(
    nomad: NomadAgent, node: Node, small_guest_image: Path
) -> None:
    job = await nomad.run_job(vm_job(small_guest_image, "typo"))
    (allocation,) = await nomad.running_allocations(job)
    (record,) = node.records()
    await until_recovered(nomad, allocation["ID"])

    await nomad.stop()
    right = node.node_toml.read_text()
    node.node_toml.write_text("[metwork]\n")
    driver = await nomad.start(is_healthy=False)
    assert "metwork" in driver["HealthDescription"]
    seen = await read_agent(os.environ["NOMAD"], {"NOMAD_ADDR": nomad.address})
    assert seen.driver is not None
    assert (seen.driver.detected, seen.driver.healthy) == (True, False)
    assert "metwork" in seen.driver.health_description
    assert seen.config is not None
    assert ("vm" in seen.config.plugins, seen.plugin_problem) == (True, None)
    await until_recovered(nomad, allocation["ID"])
    assert [found.process for found in node.records()] == [record.process]
    assert identity.is_alive(record.process)

    node.node_toml.write_text(right)
    await nomad.until_healthy()
    (same,) = await nomad.running_allocations(job)
    assert same["ID"] == allocation["ID"]
    assert same["TaskStates"]["vm"]["Restarts"] == 0
    await nomad.stop_job(job)
    assert not identity.is_alive(record.process)


async def test_exec_tells_in_words_why_not_and_ends_with_who_asked(
    nomad: NomadAgent, small_guest_image: Path
) -> None:
    job = await nomad.run_job(vm_job(small_guest_image, "exec"))
    (allocation,) = await nomad.running_allocations(job)

    async def execute(*argv: str, stdin: str = "-i=false") -> command.Completed:
        return await nomad.command(
            "alloc", "exec", stdin, "-t=false", allocation["ID"], *argv, timeout_s=120
        )

    await nomad.until(
        lambda: execute("true"), lambda done: done.returncode == 0, "a guest with an agent"
    )
    done = await execute("no-such-program")
    assert done.returncode == 127
    assert b"no-such-program" in done.stderr

    done = await execute("cat", stdin="-i=true")  # stdin is /dev/null
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

    # The shell is no leaf: what it has started must end with it.
    argv = ["alloc", "exec", "-i=false", "-t=false", allocation["ID"]]
    long = nomad.spawn(*argv, "sh", "-c", "sleep 7654; echo")

    async def processes() -> str:
        return (await execute("ps", "-o", "args")).stdout.decode()

    await nomad.until(processes, lambda out: "sleep 7654" in out, "the command in the guest")
    pidfd.send_signal(long.process, signal.SIGINT)
    await pidfd.wait_gone(long.process)
    long.exit_status()
    await nomad.until(processes, lambda out: "sleep 7654" not in out, "its end in the guest")

    # Behind the answer to this command the agent answers nobody any more.
    await execute("sh", "-c", "(sleep 1; killall -STOP qemu-ga) >/dev/null 2>&1 </dev/null &")
    done = await nomad.until(
        lambda: execute("true"), lambda done: done.returncode != 0, "a guest without an agent"
    )
    assert done.returncode == 126
    assert b"does not answer" in done.stderr


async def test_exec_that_the_job_does_not_allow_says_so(
    nomad: NomadAgent, small_guest_image: Path
) -> None:
    text = vm_job(small_guest_image, "silent").replace("allow_exec = true", "")
    job = await nomad.run_job(text)
    (allocation,) = await nomad.running_allocations(job)
    done = await nomad.command("alloc", "exec", "-i=false", "-t=false", allocation["ID"], "true")
    assert done.returncode == 126
    assert done.stderr.decode() == (
        "vm: exec is not allowed by this job "
        "(set guest_agent { allow_exec = true } in the task's config)\n"
    )


async def test_the_end_of_a_guest_is_an_ordinary_exit_whoever_was_there_to_see_it(
    nomad: NomadAgent, node: Node, small_guest_image: Path
) -> None:
    job = await nomad.run_job(
        vm_job(
            small_guest_image,
            "panics",
            task_blocks=user_data("#!/bin/sh\n(sleep 15; echo c >/proc/sysrq-trigger) &\n"),
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
    assert not identity.is_alive(record.process)


async def test_a_job_that_cannot_start_says_why(nomad: NomadAgent, small_guest_image: Path) -> None:
    job = await nomad.run_job(vm_job(small_guest_image.with_name("absent.qcow2"), "absent"))
    (allocation,) = await nomad.until(
        lambda: nomad.allocations(job),
        lambda all_: bool(all_) and all_[0]["ClientStatus"] == "failed",
        "failed allocation",
    )
    assert "absent.qcow2" in json.dumps(allocation["TaskStates"])


async def test_a_prestart_task_hands_over_an_image(
    nomad: NomadAgent, node: Node, small_guest_image: Path
) -> None:
    checksum = f"sha256:{hashlib.sha256(small_guest_image.read_bytes()).hexdigest()}"
    text = job_text(
        "handed-over",
        f'image = "${{NOMAD_ALLOC_DIR}}/data/disk.qcow2"\nchecksum = "{checksum}"',
        group_blocks=FETCH_TASK.format(image=small_guest_image),
    )
    job = await nomad.run_job(text)
    (allocation,) = await nomad.running_allocations(job)
    await guest_log(nomad, allocation["ID"], "small guest ready")
    (record,) = node.records()
    assert record.image == "/alloc/data/disk.qcow2"


async def test_a_stop_during_a_download_ends_the_task_at_once(
    short_tmp_path: Path, small_guest_image: Path
) -> None:
    node = Node(short_tmp_path, small_guest_image, more='allow_networks = ["127.0.0.0/8"]\n')
    async with ImageServer.running() as server, running_agent(node) as nomad:
        body = small_guest_image.read_bytes()
        # Whoever asks again gets the file from its begin, and waits again.
        half = len(body) // 2
        slow = Resource(body=body, etag='"1"', pause_at=half, ranges="ignored")
        text = vm_job(server.put("/slow.qcow2", slow), "slow")

        job = await nomad.run_job(text)
        (allocation,) = await nomad.running_allocations(job)
        events = await nomad.events(allocation["ID"], "vm")
        assert any("Downloading image" in event for event in events)
        done = await nomad.command("alloc", "exec", "-i=false", "-t=false", allocation["ID"], "id")
        assert (done.returncode, b"still being started" in done.stderr) == (126, True)

        # A task whose driver ends meanwhile is started anew, whatever its restart policy.
        await nomad.stop(signal.SIGTERM)
        await nomad.start()
        await nomad.until(
            lambda: nomad.events(allocation["ID"], "vm"),
            lambda events: events[-1].startswith("Downloading image"),
            "another start",
        )
        await nomad.stop_job(job)
        allocation = await nomad.get(f"/v1/allocation/{allocation['ID']}")
        assert allocation["ClientStatus"] == "complete"
        assert not slow.resume.is_set()
        assert node.leftovers() == []

        # The download has gone on: the next start finds the image.
        slow.resume.set()
        job = await nomad.run_job(text)
        *_, allocation = await nomad.running_allocations(job)
        await guest_log(nomad, allocation["ID"], "small guest ready")


async def test_a_service_counts_the_vm_as_used_and_reports_its_memory(
    nomad: NomadAgent, small_guest_image: Path
) -> None:
    job = await nomad.run_job(vm_job(small_guest_image, "stats"))
    (allocation,) = await nomad.running_allocations(job)

    async def stats() -> object:
        return await nomad.get(f"/v1/client/allocation/{allocation['ID']}/stats")

    usage = await nomad.until(
        stats,
        lambda reply: reply["ResourceUsage"]["MemoryStats"]["Usage"] > 64 << 20,
        "memory in the stats",
    )
    assert usage["ResourceUsage"]["CpuStats"]["Percent"] >= 0
