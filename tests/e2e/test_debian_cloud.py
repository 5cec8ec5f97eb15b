"""`examples/debian-cloud.nomad.hcl` as written, against the layout of Debian's image server."""

import hashlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.image_server import ImageServer
from guests import cache

from qemu_node.host.process import command

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(900)]

JOB = cache.REPO / "examples" / "debian-cloud.nomad.hcl"
IMAGE = "debian-13-genericcloud-amd64.qcow2"


@pytest.fixture
async def server() -> AsyncIterator[ImageServer]:
    async with ImageServer.running() as server:
        yield server


async def run_job(root: Path, server: ImageServer) -> command.Completed:
    """Run the example with the small guest in the place of Debian's image."""
    node_toml = root / "node.toml"
    node_toml.write_text(
        f'[paths]\nrun = "{root}/r"\ndata = "{root}/d"\n'
        # The server stands in for one elsewhere; the node's own addresses are refused.
        '[images]\nallow_networks = ["127.0.0.0/8"]\n'
    )
    return await command.run(
        [
            sys.executable, "-m", "qemu_node", "--config", str(node_toml), "run", "--json",
            "--parser", "hcl2", "--exit-when-ready", "--ready-timeout", "10m",
            "-var", f"mirror={server.url('').rstrip('/')}", str(JOB),
        ],
        timeout_s=800,
        check=False,
    )  # fmt: skip


async def test_both_vms_boot_from_one_verified_download(
    short_tmp_path: Path, server: ImageServer, small_guest_image: Path
) -> None:
    content = small_guest_image.read_bytes()
    server.publish(f"/{IMAGE}", content)
    server.publish("/SHA512SUMS", f"{hashlib.sha512(content).hexdigest()}  {IMAGE}\n".encode())
    done = await run_job(short_tmp_path, server)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    ready = [
        event
        for event in map(json.loads, done.stdout.decode().splitlines())
        if event["event"] == "ready"
    ]
    assert {event["vm"] for event in ready} == {"debian[0]", "debian[1]"}
    assert len(server.gets(f"/{IMAGE}")) == 1
    assert not list((short_tmp_path / "d" / "vm").glob("[!.]*"))


async def test_an_image_that_is_not_the_published_one_never_boots(
    short_tmp_path: Path, server: ImageServer, small_guest_image: Path
) -> None:
    server.publish(f"/{IMAGE}", small_guest_image.read_bytes())
    server.publish("/SHA512SUMS", f"{'0' * 128}  {IMAGE}\n".encode())
    done = await run_job(short_tmp_path, server)
    assert done.returncode == 1
    assert b"checksum" in done.stdout.lower()
    assert not list((short_tmp_path / "d" / "images" / "blobs").glob("*"))
