"""Services and their checks under a real Nomad agent, for VMs in user mode; jobs that it takes."""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from e2e.nomad_agent import NomadAgent
from e2e.nomad_node import Node, running_agent
from guests import cache

pytestmark = [
    pytest.mark.needs_nomad,
    pytest.mark.needs_root,
    pytest.mark.needs_qemu,
    pytest.mark.timeout(900),
]

JOB = """
job "web" {{
  group "g" {{
    network {{
      port "http" {{
        to = 80
      }}
      port "health" {{}}
    }}

    service {{
      name     = "web"
      provider = "nomad"
      port     = "http"

      check {{
        name     = "page"
        type     = "http"
        path     = "/"
        interval = "2s"
        timeout  = "5s"
      }}
      check {{
        name     = "agent"
        type     = "http"
        port     = "health"
        path     = "/"
        interval = "2s"
        timeout  = "5s"
      }}
    }}

    task "vm" {{
      driver       = "vm"
      kill_timeout = "20s"

      service {{
        name         = "guest"
        provider     = "nomad"
        port         = "http"
        address_mode = "driver"
      }}

      config {{
        image       = "{image}"
        firmware    = "bios"
        health_port = "health"

        network {{
          mode = "user"
        }}
        ports {{
          http = 80
        }}
      }}

      resources {{
        cpu    = 200
        memory = 512
      }}
    }}
  }}
}}
"""
_PAGE_JOB = re.compile(r"^```hcl\n(?P<text>job .*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def node(short_tmp_path: Path, small_guest_image: Path) -> Node:
    return Node(short_tmp_path, small_guest_image)


@pytest.fixture
async def nomad(node: Node) -> AsyncIterator[NomadAgent]:
    async with running_agent(node) as agent:
        yield agent


async def page_of(service: dict[str, object]) -> str:
    """Return what a service's web server answers."""
    url = f"http://{service['Address']}:{service['Port']}/"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return (await response.text()).strip()


async def test_in_user_mode_a_service_has_the_node_s_address_and_checks_that_pass(
    nomad: NomadAgent, small_guest_image: Path
) -> None:
    job = await nomad.run_job(JOB.format(image=small_guest_image))
    (allocation,) = await nomad.running_allocations(job)
    for name in ("agent", "page"):
        await nomad.until(
            lambda name=name: nomad.check(allocation["ID"], name),  # type: ignore[misc]
            lambda check: check.get("Status") == "success",
            f"check {name} that passes",
        )
    (service,) = await nomad.services("web")
    assert await page_of(service) == "web-g-vm-0"
    # There is no address of the guest that others could reach.
    assert any(
        "no driver network exists" in told for told in await nomad.events(allocation["ID"], "vm")
    )
    assert await nomad.services("guest") == []


def jobs(directory: Path) -> Iterator[Path]:
    """Yield the examples, and each whole job of a page."""
    yield from sorted((cache.REPO / "examples").glob("*.nomad.hcl"))
    for page in [cache.REPO / "README.md", *sorted((cache.REPO / "docs").glob("*.md"))]:
        for number, match in enumerate(_PAGE_JOB.finditer(page.read_text())):
            job = directory / f"{page.stem}-{number}.nomad.hcl"
            job.write_text(match["text"])
            yield job


async def test_nomad_takes_the_examples_and_the_jobs_of_the_pages(
    nomad: NomadAgent, tmp_path: Path
) -> None:
    # As docs/plain-debian.md makes it before the job that names it.
    await nomad.command("namespace", "apply", "vms")
    refused = {}
    for job in jobs(tmp_path):
        is_image_asked = 'variable "image"' in job.read_text()
        variables = ["-var", "image=local/disk.qcow2"] if is_image_asked else []
        done = await nomad.command("job", "validate", *variables, str(job))
        if done.returncode != 0:
            refused[job.name] = (done.stdout + done.stderr).decode()
    assert not refused
