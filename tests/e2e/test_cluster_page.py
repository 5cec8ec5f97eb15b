"""docs/cluster.md, followed command by command until a server and a client are one cluster.

The commands and blocks of HCL are the page's own. Directories play the nodes; `ssh` and `scp`
lead there; a file more in each gives the agents ports of their own on loopback.
"""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.nomad_agent import HEALTHY_TIMEOUT_S, LOOPBACK, free_ports
from guests import cache

from qemu_node.host.process import command, pidfd
from qemu_node.host.process.command import Child, Completed

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_nomad,
    pytest.mark.needs_qemu,
    pytest.mark.timeout(900),
]

SAMPLES = cache.REPO / "osimage/files/usr/share/nomad"
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<body>.*?)^ *```$", re.DOTALL | re.MULTILINE
)
_TEST_HCL = (
    LOOPBACK
    + """
name = "{name}"
client {{
  network_interface = "lo"
  cpu_total_compute = 8000
  memory_total_mb   = 16384
}}
"""
)
_NODE_TOML = """
[paths]
run = "{root}/r"
data = "{root}/d"
[qemu]
accelerator = "tcg"
"""


def blocks(title: str, kind: str = "") -> list[str]:
    """Return the blocks of a section of the page, without their indent."""
    page = (cache.REPO / "docs/cluster.md").read_text()
    section = re.split(r"^##+ ", re.split(rf"^##+ {title}\n", page, flags=re.M)[1], flags=re.M)[0]
    found = [
        re.sub(f"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        for match in _FENCE.finditer(section)
        if match["kind"] == kind
    ]
    assert found, f"nothing below {title}"
    return found


class PageNode:
    """A node of the page: its directories, its agent, and the commands that people run there."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root / name
        self.name = name
        self.http, self.rpc, self.serf = free_ports(3)
        self.config = self.root / "data/config"
        self.config.mkdir(parents=True)
        self.log = self.root / "agent.log"
        self._child: Child | None = None
        plugin = self.root / "plugins/vm"
        plugin.parent.mkdir()
        plugin.write_text(
            f"#!/bin/sh\nexport PYTHONPATH={_modules()} QEMU_NODE_CONFIG={self.config}/node.toml\n"
            f'exec {sys.executable} -m qemu_node driver "$@"\n'
        )
        plugin.chmod(0o755)

    def copy_samples(self, *names: str) -> None:
        """Do what `cp /usr/share/nomad/*` does, with paths of this test."""
        for name in names:
            text = (SAMPLES / name).read_text().replace("/data/", f"{self.root}/data/")
            text = text.replace("/usr/lib/nomad/plugins", f"{self.root}/plugins")
            (self.config / name).write_text(text)
        ports = {"http": self.http, "rpc": self.rpc, "serf": self.serf}
        (self.config / "zz-test.hcl").write_text(_TEST_HCL.format(name=self.name, **ports))
        (self.config / "node.toml").write_text(_NODE_TOML.format(root=self.root))

    @property
    def env(self) -> dict[str, str]:
        """What `nomad` on the node has by itself."""
        return {
            **command.SAFE_ENV,
            "PATH": f"{self.root.parent}/bin:{command.SAFE_ENV['PATH']}",
            "HOME": str(self.root.parent),
            "NOMAD_ADDR": f"https://127.0.0.1:{self.http}",
            "NOMAD_CACERT": str(self.config / "tls/ca.pem"),
            "PYTHONPATH": _modules(),
        }

    async def shell(self, script: str, **env: str) -> Completed:
        """Run commands of the page."""
        return await command.run(
            ["/bin/sh", "-euc", script], env=self.env | env, timeout_s=300, check=False
        )

    async def qemu_node(self, *arguments: str) -> Completed:
        """Run our command."""
        return await command.run(
            [sys.executable, "-m", "qemu_node", *arguments],
            env=self.env,
            timeout_s=300,
            check=False,
        )

    def start(self) -> None:
        """Do what `systemctl start nomad` does."""
        log_fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            argv = [os.environ["NOMAD"], "agent", f"-config={self.config}"]
            self._child = command.spawn(argv, stderr_fd=log_fd, env=self.env)
        finally:
            os.close(log_fd)

    async def stop(self) -> None:
        if self._child is not None:
            pidfd.send_signal(self._child.process, signal.SIGTERM)
            await pidfd.wait_gone(self._child.process)
            self._child.exit_status()


def _modules() -> str:
    return ":".join(filter(None, sys.path))


def on_nodes(script: str, root: Path) -> str:
    """Return commands whose `ssh` and `scp` reach the directories of this test."""
    script = re.sub(r"ssh root@(\w+) (.*) /data", rf"\2 {root}/\1/data", script)
    return re.sub(r"scp (\S+) root@(\w+):/data", rf"cp \1 {root}/\2/data", script)


async def until(
    node: PageNode, argv: str, accept: Callable[[Any], bool], timeout_s: float, **env: str
) -> Any:
    """Return the JSON that a command prints once `accept` takes it."""
    last = Completed(returncode=0, stdout=b"", stderr=b"")
    for _ in range(int(timeout_s)):
        last = await node.shell(argv, **env)
        if last.returncode == 0 and accept(found := json.loads(last.stdout)):
            return found
        await node.shell("sleep 1")
    raise AssertionError(f"{argv}: {last}\n{node.log.read_text()[-4000:]}")


@pytest.fixture
async def nodes(short_tmp_path: Path) -> AsyncIterator[tuple[PageNode, PageNode]]:
    (short_tmp_path / "bin").mkdir()
    (short_tmp_path / "bin/nomad").symlink_to(os.environ["NOMAD"])
    first, second = PageNode(short_tmp_path, "node1"), PageNode(short_tmp_path, "node2")
    try:
        yield first, second
    finally:
        await second.stop()
        await first.stop()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
async def test_a_single_node_makes_its_certificates_and_has_nothing_wrong(
    nodes: tuple[PageNode, PageNode],
) -> None:
    node, _ = nodes
    node.copy_samples(*(path.name for path in SAMPLES.iterdir()))
    made = await node.qemu_node("os", "--root", str(node.root), "certificates")
    assert b"made a CA and a certificate" in made.stdout, made
    checked = await node.qemu_node("config", "check", str(node.config))
    assert (checked.returncode, checked.stderr) == (0, b"")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
async def test_the_page_makes_a_cluster_with_tls_and_acls(
    nodes: tuple[PageNode, PageNode], short_tmp_path: Path
) -> None:
    server, client = nodes

    # Certificates, gossip key, servers' names.
    for block in blocks("Certificates"):
        if block.startswith("nomad tls cert"):
            block = f"cd ~/nomad-ca\n{block}"
        if block.startswith("ssh"):
            block = f"cd ~/nomad-ca\n{on_nodes(block, short_tmp_path)}"
        done = await server.shell(block)
        assert done.returncode == 0, done
    server.copy_samples("global.hcl", "server.hcl", "client.hcl", "security.hcl")
    client.copy_samples("global.hcl", "client.hcl", "security.hcl")
    (command_block,) = blocks("Gossip key")
    key = (await server.shell(command_block)).stdout.decode().strip()
    (gossip,) = blocks("Gossip key", "hcl")
    with (server.config / "security.hcl").open("a") as file:
        file.write(gossip.replace("the key", key))

    # A client that knows no server, and one whose certificate is missing, are found out before.
    checked = await client.qemu_node("config", "check", str(client.config))
    assert checked.returncode == 1
    assert b"knows no server" in checked.stderr
    _, joining = blocks("Servers and clients", "hcl")
    names = re.sub(r"retry_join = \[.*\]", f'retry_join = ["127.0.0.1:{server.rpc}"]', joining)
    (client.config / "y-servers.hcl").write_text(names)
    for node in nodes:
        checked = await node.qemu_node("config", "check", str(node.config))
        assert checked.returncode == 0, checked
        node.start()

    # ACLs.
    bootstrap, policies = blocks("ACLs")
    first, export, status = bootstrap.splitlines()
    assert export.startswith("export NOMAD_TOKEN=")
    shown = b""
    for _ in range(120):
        done = await server.shell(first)
        shown = done.stdout
        if done.returncode == 0:
            break
        await server.shell("sleep 1")
    secret = re.search(rb"Secret ID\s+= (\S+)", shown)
    assert secret, server.log.read_text()[-4000:]
    token = secret[1].decode()
    refused = await server.shell(status)
    assert b"Permission denied" in refused.stderr + refused.stdout
    done = await server.shell(policies, NOMAD_TOKEN=token)
    assert done.returncode == 0, done
    assert b"alice" in done.stdout

    # Both nodes are one cluster, by TLS.
    await until(
        server,
        "nomad operator api -X GET /v1/nodes",
        lambda nodes: (
            len(nodes) == 2
            and all(n["Status"] == "ready" for n in nodes)
            and all(((n["Drivers"] or {}).get("vm") or {}).get("Healthy") for n in nodes)
        ),
        HEALTHY_TIMEOUT_S,
        NOMAD_TOKEN=token,
    )
    plain = await server.shell(f"curl -s http://127.0.0.1:{server.http}/v1/nodes || true")
    assert b"Client sent an HTTP request to an HTTPS server" in plain.stdout

    # A node drains itself by its own secret, and takes work again.
    root = ["os", "--root", str(client.root)]
    drained = await client.qemu_node(*root, "drain", "--timeout", "60s", "--json")
    assert drained.returncode == 0, drained
    assert json.loads(drained.stdout) == {"choice": "drain", "is_complete": True}
    (node,) = await until(
        server,
        "nomad operator api -X GET '/v1/nodes?filter=Name==node2'",
        lambda nodes: nodes[0]["SchedulingEligibility"] == "ineligible",
        30,
        NOMAD_TOKEN=token,
    )
    assert node["LastDrain"]["Meta"]["message"] == "the node goes down for maintenance"
    undone = await client.qemu_node(*root, "drain", "--undo", "--json")
    assert json.loads(undone.stdout) == {"undone": "undo"}
    await until(
        server,
        "nomad operator api -X GET '/v1/nodes?filter=Name==node2'",
        lambda nodes: nodes[0]["SchedulingEligibility"] == "eligible",
        30,
        NOMAD_TOKEN=token,
    )
