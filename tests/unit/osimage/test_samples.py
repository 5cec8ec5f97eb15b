"""The samples in /usr/share/nomad, in each combination of files that their comments offer."""

import re
from pathlib import Path

import pytest

from qemu_node.config import node as node_config
from qemu_node.nodeos.agent.config import AgentConfig, agent_config, merge, parse

FILES = Path(__file__).parents[3] / "osimage/files"
SAMPLES = FILES / "usr/share/nomad"


def config_of(*names: str) -> AgentConfig:
    settings: dict[str, object] = {}
    for name in sorted(names):
        path = SAMPLES / f"{name}.hcl"
        settings = merge(settings, parse(path.read_text(), path))
    return agent_config(settings)


def test_there_are_no_other_samples() -> None:
    assert sorted(path.name for path in SAMPLES.iterdir()) == [
        "client.hcl",
        "global.hcl",
        "node.toml",
        "security.hcl",
        "server.hcl",
    ]


def test_all_of_them_make_one_node_that_is_both_with_tls_and_acls() -> None:
    config = config_of("global", "client", "server", "security")
    assert (config.is_server, config.is_client, config.bootstrap_expect) == (True, True, 1)
    assert config.has_acl
    assert config.tls.is_http
    assert config.tls.is_rpc
    assert config.tls.verifies_server_name
    assert set(config.plugins) == {"vm", "raw_exec"}
    assert config.data_dir == "/data/nomad"
    assert config.plugin_dir == "/usr/lib/nomad/plugins"


@pytest.mark.parametrize(
    ("names", "server", "client"),
    [(("global", "server"), True, False), (("global", "client"), False, True)],
)
def test_without_one_of_them_the_node_has_the_other_role_and_no_security(
    names: tuple[str, ...], server: bool, client: bool
) -> None:
    config = config_of(*names)
    assert (config.is_server, config.is_client) == (server, client)
    assert not config.has_acl
    assert not config.tls.is_on


def test_what_is_commented_out_is_right_too() -> None:
    for name, expected in (("client", "retry_join"), ("server", "retry_join")):
        text = (SAMPLES / f"{name}.hcl").read_text()
        told = re.sub(r"(?m)^(\s*)# (server_join \{|  retry_join|\})", r"\1\2", text)
        assert expected in told
        config = agent_config(parse(told, Path(f"{name}.hcl")))
        if name == "client":
            assert len(config.servers) == 3


def test_the_drivers_settings_are_right() -> None:
    config = node_config.load_file(SAMPLES / "node.toml").config
    assert config.paths.data == "/data"
    assert (config.network.bridge, config.network.uplink) == ("br0", "bond0")


def test_ports_for_vms_are_those_that_the_firewall_has_open() -> None:
    client = parse((SAMPLES / "client.hcl").read_text(), Path("client.hcl"))["client"]
    first, last = client["min_dynamic_port"], client["max_dynamic_port"]
    assert f"tcp dport {first}-{last} accept" in (FILES / "etc/nftables.conf").read_text()
