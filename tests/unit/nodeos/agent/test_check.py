from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from qemu_node.nodeos.agent.certificates import Present
from qemu_node.nodeos.agent.check import Certificate, Facts, judge
from qemu_node.nodeos.agent.config import AgentConfig, TlsSettings

NOW = datetime(2026, 6, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
TLS = TlsSettings(
    is_http=True,
    is_rpc=True,
    ca_file="/t/ca.pem",
    cert_file="/t/node.pem",
    key_file="/t/node-key.pem",
    verifies_server_name=True,
)
CONFIG = AgentConfig(
    is_server=True,
    is_client=True,
    bootstrap_expect=1,
    has_acl=True,
    plugins=("vm", "raw_exec"),
    tls=TLS,
)
CERTIFICATE = Certificate(
    not_before=NOW - YEAR, not_after=NOW + YEAR, names=("server.global.nomad", "localhost")
)
FACTS = Facts(
    now=NOW,
    host_name="node1",
    present=Present(ca=True, cert=True, key=True),
    certificate=CERTIFICATE,
)
OF_THREE = replace(CONFIG, bootstrap_expect=3, servers=("a", "b", "c"), has_gossip_key=True)
CLIENT = replace(CONFIG, is_server=False, bootstrap_expect=0, servers=("a",))


@pytest.mark.parametrize("config", [CONFIG, OF_THREE, CLIENT])
def test_nothing_is_wrong_with_the_samples_in_any_role(config: AgentConfig) -> None:
    assert judge(config, FACTS) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(CLIENT, servers=()), "knows no server"),
        (replace(CONFIG, plugins=("raw_exec",)), 'plugin "vm"'),
        (replace(OF_THREE, servers=()), "none is named to join"),
        (replace(CONFIG, tls=replace(TLS, ca_file="")), "ca_file not set"),
        (replace(CONFIG, region="north"), "not for server.north.nomad"),
    ],
)
def test_what_keeps_the_cluster_from_working_is_an_error(config: AgentConfig, words: str) -> None:
    (finding, *_) = judge(config, FACTS)
    assert words in finding.text
    assert finding.is_error
    assert finding.hint


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (replace(FACTS, validator_says="client: no such key foo"), "no such key foo"),
        (replace(FACTS, has_plugin_file=False), "no executable file vm"),
        (replace(FACTS, present=Present(ca=True)), "/t/node.pem, /t/node-key.pem"),
        (replace(FACTS, certificate=None, certificate_problem="this is none"), "this is none"),
        (replace(FACTS, now=NOW + 2 * YEAR), "has expired on 2027-06-01"),
        (replace(FACTS, now=NOW - 2 * YEAR), "valid from 2025-06-01"),
        (
            replace(FACTS, certificate=replace(CERTIFICATE, chain_problem="not its CA")),
            "not its CA",
        ),
        (
            replace(FACTS, certificate=replace(CERTIFICATE, key_problem="not its key")),
            "not its key",
        ),
        (
            replace(FACTS, certificate=replace(CERTIFICATE, names=("client.global.nomad",))),
            "not for server.global.nomad",
        ),
    ],
)
def test_what_nomad_would_fail_by_is_an_error(facts: Facts, words: str) -> None:
    (finding, *_) = judge(CONFIG, facts)
    assert words in finding.text
    assert finding.is_error


@pytest.mark.parametrize(
    ("config", "facts", "words"),
    [
        (replace(CONFIG, has_acl=False), FACTS, "ACLs are off"),
        (replace(CONFIG, tls=TlsSettings()), FACTS, "tokens cross the network"),
        (replace(OF_THREE, has_gossip_key=False), FACTS, "port 4648"),
        (replace(OF_THREE, bootstrap_expect=4), FACTS, "4 servers survive"),
        (CONFIG, replace(FACTS, now=NOW + YEAR - timedelta(days=9)), "expires on 2027-06-01"),
        (CONFIG, replace(FACTS, present=Present()), "can make by itself"),
        (CONFIG, replace(FACTS, open_keys=("/t/node-key.pem",)), "others than root"),
        (CONFIG, replace(FACTS, has_node_toml=False), "no node.toml"),
        (CONFIG, replace(FACTS, has_validator=False), "no program nomad"),
    ],
)
def test_what_will_be_wrong_or_is_left_open_is_a_warning(
    config: AgentConfig, facts: Facts, words: str
) -> None:
    (finding,) = judge(config, facts)
    assert words in finding.text
    assert not finding.is_error


def test_servers_of_a_cluster_need_names() -> None:
    facts = replace(FACTS, host_name="localhost")
    assert judge(CONFIG, facts) == []
    assert judge(replace(OF_THREE, name="one"), facts) == []
    (finding,) = judge(OF_THREE, facts)
    assert "called localhost" in finding.text


def test_errors_come_before_warnings() -> None:
    found = judge(replace(CONFIG, has_acl=False, plugins=()), FACTS)
    assert [finding.is_error for finding in found] == [True, False]
