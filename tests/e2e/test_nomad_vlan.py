"""VMs in VLANs under a real Nomad agent: services that lead to a guest, and the operator's rules.

The node has a bridge whose uplink is a wire to a network namespace with a host in each VLAN. That
host, and nobody on the node, reaches the guests.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from e2e.nomad_agent import NomadAgent
from e2e.nomad_node import Node, running_agent
from network.facts import set_elements, taps, vlans_of
from network.namespaces import inside, ip, private_network

from bench.rig.jobtext import job_text, user_data
from qemu_node.host.process import command

pytestmark = [
    pytest.mark.needs_nomad,
    pytest.mark.needs_vlans,
    pytest.mark.needs_qemu,
    pytest.mark.timeout(1200),
    pytest.mark.asyncio(loop_scope="module"),
]

VLAN, OTHER_VLAN = 101, 102
ADDRESS = "10.101.0.7"
BOOT_TIMEOUT_S = 600.0
"""For a guest under TCG on a machine that runs under TCG itself."""

SETTINGS = f"""
[qemu]
accelerator = "tcg"

[network]
bridge = "br0"
uplink = "uplink"

[[network.policy]]
namespaces = ["default"]
vlans = ["{VLAN}"]
addresses = ["10.101.0.0/24"]
strict = true

[[network.policy]]
namespaces = ["lab"]
vlans = ["{OTHER_VLAN}"]
"""

GROUP_NETWORK = """
    network {
      port "http" {
        to = 80
      }
      port "health" {}
    }
"""

CONFIG = """
        image       = "{image}"
        firmware    = "bios"
        health_port = "health"

        network {{
          vlan      = {vlan}
          advertise = "{advertise}"
        }}
"""

SERVICE = """
      service {{
        name         = "{name}"
        provider     = "nomad"
        port         = "http"
        address_mode = "driver"

        check {{
          name     = "agent"
          type     = "http"
          port     = "health"
          path     = "/"
          interval = "5s"
          timeout  = "5s"
        }}
      }}
"""

ADD_ADDRESS = f"""\
#!/bin/sh
# The agent of the guest names what is outside of the policy, too.
ip address add {ADDRESS}/24 dev eth0
ip address add 192.0.2.1/24 dev eth0"""


@pytest.fixture(scope="module", autouse=True)
def own_network() -> Iterator[None]:
    """Give the tests a bridge, and a host outside in each of the two VLANs."""
    with private_network():
        # Its /sys hides the control groups that the agent and the driver use.
        command.run_blocking(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"])
        ip("netns add outside")
        ip("""link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0 \
mcast_snooping 0
            link add uplink type veth peer name wire netns outside
            link set uplink master br0
            link set br0 up
            link set uplink up""")
        vlans = "".join(
            f"""link add link wire name wire.{vlan} up type vlan id {vlan}
            address add 10.{vlan}.0.1/24 dev wire.{vlan}\n"""
            for vlan in (VLAN, OTHER_VLAN)
        )
        ip(f"link set lo up\nlink set wire up\n{vlans}", namespace="outside")
        yield


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Return a directory as `short_tmp_path` is, for all tests."""
    # What Nomad has mounted in there ends with the namespace.
    with tempfile.TemporaryDirectory(prefix="qn-", dir="/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="module")
def node(directory: Path, small_guest_image: Path) -> Node:
    return Node(directory, small_guest_image, more=SETTINGS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(node: Node) -> AsyncIterator[NomadAgent]:
    """Run one agent for all tests: its driver takes half a minute to see that guests run."""
    async with running_agent(node) as agent:
        yield agent


@pytest_asyncio.fixture(loop_scope="module")
async def nomad(agent: NomadAgent, node: Node) -> AsyncIterator[NomadAgent]:
    """Give the test the agent without a job, on a node without anything of a VM."""
    assert what_is_left(node) == []
    yield agent
    await agent.stop_jobs()
    await becomes_clean(agent, node)


def what_is_left(node: Node) -> list[object]:
    """Return what bridge, uplink, filter and disk have of VMs."""
    return [*taps(), *vlans_of("uplink"), *set_elements(), *node.leftovers()]


async def becomes_clean(nomad: NomadAgent, node: Node) -> None:
    """Wait until nothing is left of a VM."""

    async def left() -> list[object]:
        return what_is_left(node)

    await nomad.until(left, lambda found: found == [], "clean node")


def vlan_job(name: str, image: Path, *, namespace: str = "default", advertise: str = "10m") -> str:
    return job_text(
        name,
        CONFIG.format(image=image, vlan=VLAN, advertise=advertise),
        namespace=namespace,
        kill_timeout="5s",
        memory_mib=384,
        group_blocks=GROUP_NETWORK,
        task_blocks=SERVICE.format(name=name) + user_data(ADD_ADDRESS),
    )


async def page_from_outside(address: str, port: int) -> str:
    """Return what the guest's web server answers to a host in its VLAN."""
    with inside("outside"):
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 60)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode().partition("\r\n\r\n")[2].strip()


async def test_a_service_leads_to_the_guest_in_its_vlan_and_nothing_stays_behind(
    nomad: NomadAgent, node: Node, small_guest_image: Path
) -> None:
    job = await nomad.run_job(vlan_job("web", small_guest_image))
    # Asked for rarely: each look takes CPU from the guest.
    (allocation,) = await nomad.running_allocations(job, timeout_s=BOOT_TIMEOUT_S, poll_s=5.0)
    alloc_id = allocation["ID"]

    (service,) = await nomad.until(lambda: nomad.services("web"), bool, "registered service")
    assert (service["Address"], service["Port"]) == (ADDRESS, 80)
    assert await page_from_outside(service["Address"], service["Port"]) == "web-g-vm-0"

    (event,) = [told for told in await nomad.events(alloc_id, "vm") if ADDRESS in told]
    assert event == f"guest web-g-vm-0 has {ADDRESS}; its services advertise it"
    listed = await command.run(
        [
            sys.executable, "-m", "qemu_node", "--config", str(node.node_toml),
            "vm", "list", "--wide", "--json",
        ],
        env=dict(os.environ), timeout_s=60,
    )  # fmt: skip
    (vm,) = json.loads(listed.stdout)
    assert (vm["guest_name"], vm["addresses"]) == ("web-g-vm-0", [ADDRESS])
    await nomad.until(
        lambda: nomad.check(alloc_id, "agent"),
        lambda check: check.get("Status") == "success",
        "check on the node for a guest that the node cannot reach",
    )

    (tap,) = taps()
    assert vlans_of(tap) == vlans_of("uplink") == {VLAN}
    assert any(tap in element for element in set_elements())
    await nomad.stop_job(job)
    await becomes_clean(nomad, node)
    assert await nomad.services("web") == []


async def test_a_namespace_s_job_in_a_vlan_that_is_not_its_own_is_told_which_rule_refuses_it(
    nomad: NomadAgent, node: Node, small_guest_image: Path
) -> None:
    await nomad.post("/v1/namespace/lab", {"Name": "lab"})
    job = await nomad.run_job(vlan_job("web", small_guest_image, namespace="lab"))
    allocation = await nomad.failed_allocation(job, namespace="lab")
    status = await nomad.command("alloc", "status", "-namespace=lab", allocation["ID"])
    words = " ".join(status.stdout.decode().split())
    assert (
        f"VLAN {VLAN} is not allowed: network.policy 2 of node.toml, which is for namespace 'lab', "
        f"does not allow VLAN {VLAN}"
    ) in words
    assert what_is_left(node) == []


async def test_a_guest_that_comes_too_late_runs_without_its_service_and_events_say_so(
    nomad: NomadAgent, small_guest_image: Path
) -> None:
    job = await nomad.run_job(vlan_job("late", small_guest_image, advertise="1s"))
    (allocation,) = await nomad.running_allocations(job)
    told = await nomad.until(
        lambda: nomad.events(allocation["ID"], "vm"),
        lambda events: any("no driver network exists" in event for event in events),
        "word of Nomad on the service",
    )
    assert any("within 1 s: services with address_mode" in event for event in told)
    assert await nomad.services("late") == []
