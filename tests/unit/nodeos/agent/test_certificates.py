from pathlib import Path

import pytest

from qemu_node.nodeos.agent.certificates import (
    Making,
    Present,
    TlsFiles,
    ca_arguments,
    certificate_arguments,
    missing_error,
    plan_making,
)
from qemu_node.nodeos.agent.config import AgentConfig, TlsSettings

TLS = TlsSettings(
    is_http=True,
    is_rpc=True,
    ca_file="/data/config/tls/ca.pem",
    cert_file="/data/config/tls/node.pem",
    key_file="/data/config/tls/node-key.pem",
)
ALONE = AgentConfig(is_server=True, is_client=True, bootstrap_expect=1, tls=TLS)
OF_THREE = AgentConfig(is_server=True, bootstrap_expect=3, servers=("a", "b"), tls=TLS)
CLIENT = AgentConfig(is_client=True, servers=("a",), tls=TLS)

ALL = Present(ca=True, cert=True, key=True)
NONE = Present()
CA_ONLY = Present(ca=True)
WITH_CA_KEY = Present(ca=True, ca_key=True)


@pytest.mark.parametrize(
    ("config", "present", "making"),
    [
        (ALONE, ALL, Making.NOTHING),
        (ALONE, NONE, Making.CA_AND_CERTIFICATE),
        # Made half, by a power cut: the CA's key came first, then the CA, then the node's key.
        (ALONE, Present(ca_key=True), Making.CA_AND_CERTIFICATE),
        (ALONE, WITH_CA_KEY, Making.CERTIFICATE),
        (ALONE, Present(ca=True, ca_key=True, key=True), Making.CERTIFICATE),
        # Of a CA that is elsewhere.
        (ALONE, CA_ONLY, Making.IMPOSSIBLE),
        (ALONE, Present(cert=True, key=True), Making.IMPOSSIBLE),
        # A CA of its own would keep it out of its cluster.
        (OF_THREE, NONE, Making.IMPOSSIBLE),
        (CLIENT, NONE, Making.IMPOSSIBLE),
        (CLIENT, CA_ONLY, Making.IMPOSSIBLE),
        (CLIENT, ALL, Making.NOTHING),
        # Where the CA was made.
        (OF_THREE, WITH_CA_KEY, Making.CERTIFICATE),
        (CLIENT, WITH_CA_KEY, Making.CERTIFICATE),
    ],
)
def test_a_node_makes_only_what_cannot_be_anybody_elses(
    config: AgentConfig, present: Present, making: Making
) -> None:
    assert plan_making(config, present) is making


def test_without_tls_there_are_no_files() -> None:
    assert TlsFiles.of(AgentConfig()) is None
    assert TlsFiles.of(AgentConfig(tls=TlsSettings(is_http=True, ca_file="/x"))) is None


def test_the_error_names_what_is_missing() -> None:
    files = TlsFiles.of(CLIENT)
    assert files is not None
    assert files.ca_key == Path("/data/config/tls/ca-key.pem")
    error = missing_error(files, CA_ONLY)
    assert "node.pem, /data/config/tls/node-key.pem" in str(error)
    assert "ca.pem" not in str(error)
    assert "docs/cluster.md" in (error.hint or "")


@pytest.mark.parametrize(
    ("host_name", "is_named"),
    [("node1", True), ("n.example.net", True), ("localhost", False), ("-x y", False), ("", False)],
)
def test_the_certificate_is_for_the_nodes_role_and_name(host_name: str, is_named: bool) -> None:
    files = TlsFiles.of(ALONE)
    assert files is not None
    assert "-region=global" in certificate_arguments(ALONE, files, host_name)
    assert "-server" in certificate_arguments(ALONE, files, host_name)
    assert "-client" in certificate_arguments(CLIENT, files, host_name)
    named = f"-additional-dnsname={host_name}" in certificate_arguments(ALONE, files, host_name)
    assert named is is_named
    assert ca_arguments() == ["tls", "ca", "create", "-days=3650"]
