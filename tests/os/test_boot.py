"""A node's system boots by its own kernel and initrd; nothing failed, and the node is ready."""

import json
import re
import shutil
from pathlib import Path

import pytest
from guests.booted import Booted, boot, squash

from osimage.build.stages import Stages, digest_of

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_qemu, pytest.mark.timeout(2400)]

_BOOT_TIMEOUT_S = 1500.0
_MEMORY_MAX_MIB = 450


@pytest.fixture(scope="module")
def node(tree: Path, stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Booted:
    """Boot the tree once, with a data partition that has the sample configuration."""

    def make(target: Path, scratch: Path) -> None:
        del scratch
        squash(tree, target)

    root = stages.get("test-root", digest_of([tree.name]), make, about="packs it for a boot")
    work = tmp_path_factory.mktemp("boot")
    data = work / "data"
    (data / "config").mkdir(parents=True)
    samples = tree / "usr/share/nomad"
    for name in ("global.hcl", "client.hcl", "server.hcl", "node.toml"):
        shutil.copy(samples / name, data / "config" / name)
    return boot(tree, root, data, work, timeout_s=_BOOT_TIMEOUT_S)


def test_no_unit_fails(node: Booted) -> None:
    assert node.answers["failed"].split("\n") == [""], node.answers["errors"]


def test_the_bridge_has_an_address_by_dhcp(node: Booted) -> None:
    (link,) = json.loads(node.answers["address"])
    addresses = [entry["local"] for entry in link["addr_info"] if entry["family"] == "inet"]
    assert addresses, node.answers["uplink"]
    # That of the first card, in the order of places in the machine.
    assert link["address"] == "52:54:00:0e:00:01"


def test_the_data_partition_is_mounted(node: Booted) -> None:
    mounts = json.loads(node.answers["mounts"])["filesystems"]
    assert [entry["fstype"] for entry in mounts if entry["target"] == "/data"] == ["ext4"]


def test_nomad_is_ready(node: Booted) -> None:
    assert node.answers["nomad"].strip() == "active", node.answers["nomad_log"]


def test_the_firewall_is_loaded(node: Booted) -> None:
    assert "hook input" in node.answers["nft"]
    assert "policy drop" in node.answers["nft"]


def test_our_command_runs(node: Booted) -> None:
    assert node.answers["command"].startswith("qemu-node, version ")


def test_the_release_names_the_image(node: Booted) -> None:
    assert re.search('^IMAGE_TAG="?test"?$', node.answers["release"], re.MULTILINE)


def test_no_account_can_log_in_by_a_password(node: Booted) -> None:
    states = [line.split()[1] for line in node.answers["passwords"].splitlines()]
    assert set(states) == {"L"}


def test_the_node_needs_little_memory_for_itself(node: Booted) -> None:
    kib = dict(re.findall(r"^(\w+):\s+(\d+) kB$", node.answers["memory"], re.MULTILINE))
    used_mib = (int(kib["MemTotal"]) - int(kib["MemAvailable"])) >> 10
    assert used_mib <= _MEMORY_MAX_MIB


def test_sshd_listens(node: Booted) -> None:
    assert re.search(r"^tcp\s+LISTEN\s.*\*?:22\s", node.answers["listening"], re.MULTILINE)
