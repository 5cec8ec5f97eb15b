"""docs/os-install.md, "Ten nodes": its commands make media that the live system takes.

The commands are the page's own. Empty files play the certificates.
"""

import re
from pathlib import Path

import pytest
from guests import cache

from qemu_node.host.process.command import SAFE_ENV, run_blocking
from qemu_node.nodeos.agent.config import AgentConfig, read_agent_config
from qemu_node.nodeos.setup.login import Login
from qemu_node.nodeos.setup.seed import parse_seed
from qemu_node.nodeos.setup.source import FoundSeed, Machine, SeedPlace, read_directory
from qemu_node.nodeos.setup.staging import Settings, merge

# ECMA-119 8.4.7: the volume's name, in the first block after the system area.
_LABEL = slice(16 * 2048 + 40, 16 * 2048 + 72)


def commands() -> list[str]:
    """Return the blocks of commands of the section."""
    page = (cache.REPO / "docs/os-install.md").read_text()
    section = re.split(r"^##+ ", page.split("### Ten nodes\n")[1], flags=re.MULTILINE)[0]
    return re.findall(r"^ *```\n(.*?)^ *```$", section, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory in which the commands were run, as in a checkout."""
    root = tmp_path_factory.mktemp("ten")
    for name in ("examples", "osimage"):
        (root / name).symlink_to(cache.REPO / name)
    ca = root / "home/nomad-ca"
    ca.mkdir(parents=True)
    for name in ("nomad-agent-ca", "global-server-nomad", "global-client-nomad"):
        (ca / f"{name}.pem").write_text(name)
        (ca / f"{name}-key.pem").write_text(f"{name}-key")
    run_blocking(
        ["/bin/sh", "-euc", 'cd "$1" && eval "$2"', "sh", str(root), "\n".join(commands())],
        env=SAFE_ENV | {"HOME": str(root / "home")},
    )
    return root


def found_in(checkout: Path, role: str) -> FoundSeed:
    place = SeedPlace(device="/dev/sr1")
    return read_directory(checkout / role, place, Machine(serial="S1"))


def settings_of(found: FoundSeed) -> Settings:
    seed = parse_seed(found.data, found.origin)
    return merge(seed, Login(), beside=found.beside, raw=found.data)


def agent_of(found: FoundSeed, directory: Path) -> AgentConfig:
    for name, data in (settings_of(found).config or {}).items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(data)
    return read_agent_config(directory)


def test_servers_are_both_and_clients_are_clients(checkout: Path, tmp_path: Path) -> None:
    roles = {}
    for role in ("servers", "clients"):
        (tmp_path / role).mkdir()
        agent = agent_of(found_in(checkout, role), tmp_path / role)
        roles[role] = (agent.is_server, agent.is_client)
    assert roles == {"servers": (True, True), "clients": (False, True)}


@pytest.mark.parametrize(("role", "certificate"), [("servers", "server"), ("clients", "client")])
def test_each_role_gets_its_own_certificate_and_never_the_key_of_the_ca(
    checkout: Path, role: str, certificate: str
) -> None:
    config = settings_of(found_in(checkout, role)).config or {}
    tls = {name: data.decode() for name, data in config.items() if name.startswith("tls/")}
    assert tls == {
        "tls/ca.pem": "nomad-agent-ca",
        "tls/node.pem": f"global-{certificate}-nomad",
        "tls/node-key.pem": f"global-{certificate}-nomad-key",
    }


def test_nodes_have_no_name_in_common_and_the_sample_node_toml(checkout: Path) -> None:
    settings = settings_of(found_in(checkout, "clients"))
    assert settings.hostname == ""
    sample = cache.REPO / "osimage/files/usr/share/nomad/node.toml"
    assert (settings.config or {})["node.toml"] == sample.read_bytes()


@pytest.mark.parametrize("role", ["servers", "clients"])
def test_the_medium_has_the_label_by_which_the_live_system_knows_it(
    checkout: Path, role: str
) -> None:
    assert (checkout / f"{role}.iso").read_bytes()[_LABEL].decode().strip() == "SEED"
