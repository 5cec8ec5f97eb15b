"""Certificates of a single node: made by a program that plays `nomad tls`, read by openssl."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from qemu_node.errors import NodeError
from qemu_node.nodeos.agent.certificates import Making, TlsFiles, make_certificates
from qemu_node.nodeos.agent.config import AgentConfig, TlsSettings
from qemu_node.nodeos.agent.facts import read_certificate

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")

_NOMAD = """#!/bin/sh
set -eu
openssl=$(command -v openssl)
[ ! -e "$(dirname "$0")/broken" ] || { echo "no entropy" >&2; exit 1; }
case "$1 $2 $3" in
    "tls ca create")
        $openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ca \\
            -days 9 -keyout nomad-agent-ca-key.pem -out nomad-agent-ca.pem 2>/dev/null ;;
    "tls cert create")
        for option in "$@"; do
            case $option in -ca=*) ca=${option#-ca=} ;; -key=*) key=${option#-key=} ;; esac
        done
        printf 'subjectAltName=DNS:server.global.nomad,DNS:localhost' >ext
        $openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=n \\
            -keyout global-server-nomad-key.pem -out csr 2>/dev/null
        $openssl x509 -req -in csr -CA "$ca" -CAkey "$key" -days 9 -extfile ext \\
            -out global-server-nomad.pem 2>/dev/null ;;
esac
"""


@pytest.fixture
def nomad(tmp_path: Path) -> Path:
    path = tmp_path / "nomad"
    path.write_text(_NOMAD)
    path.chmod(0o755)
    return path


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    tls = tmp_path / "config/tls"
    return AgentConfig(
        is_server=True,
        bootstrap_expect=1,
        tls=TlsSettings(
            is_rpc=True,
            ca_file=str(tls / "ca.pem"),
            cert_file=str(tls / "node.pem"),
            key_file=str(tls / "node-key.pem"),
        ),
    )


def files_of(config: AgentConfig) -> TlsFiles:
    files = TlsFiles.of(config)
    assert files is not None
    return files


async def test_a_single_node_makes_its_ca_and_certificate_once(
    config: AgentConfig, nomad: Path
) -> None:
    files = files_of(config)
    assert await make_certificates(config, str(nomad), "node1") is Making.CA_AND_CERTIFICATE
    certificate = await read_certificate(files)
    assert "server.global.nomad" in certificate.names
    assert (certificate.chain_problem, certificate.key_problem) == (None, None)
    assert {path.stat().st_mode & 0o777 for path in (files.key, files.ca_key)} == {0o600}
    directory = files.ca.parent
    assert directory.stat().st_mode & 0o777 == 0o700
    made = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert sorted(made) == ["ca-key.pem", "ca.pem", "node-key.pem", "node.pem"]
    assert await make_certificates(config, str(nomad), "node1") is Making.NOTHING
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == made


@pytest.mark.parametrize("lost", [["node.pem"], ["node.pem", "node-key.pem"]])
async def test_what_a_power_cut_left_out_is_made_from_the_same_ca(
    config: AgentConfig, nomad: Path, lost: list[str]
) -> None:
    files = files_of(config)
    await make_certificates(config, str(nomad), "node1")
    ca = files.ca.read_bytes()
    for name in lost:
        (files.ca.parent / name).unlink()
    assert await make_certificates(config, str(nomad), "node1") is Making.CERTIFICATE
    assert files.ca.read_bytes() == ca
    certificate = await read_certificate(files)
    assert (certificate.chain_problem, certificate.key_problem) == (None, None)


async def test_a_key_that_is_in_the_way_is_kept(config: AgentConfig, nomad: Path) -> None:
    """A CA's key was copied here, and its certificate forgotten; then a certificate is missing."""
    files = files_of(config)
    files.ca.parent.mkdir(parents=True)
    files.ca_key.write_text("the cluster's")
    assert await make_certificates(config, str(nomad), "node1") is Making.CA_AND_CERTIFICATE
    assert files.ca_key.with_name("ca-key.pem.replaced").read_text() == "the cluster's"
    for name in ("node-key.pem.replaced", "node-key.pem.replaced2"):
        key = files.key.read_text()
        files.cert.unlink()
        assert await make_certificates(config, str(nomad), "node1") is Making.CERTIFICATE
        assert files.key.with_name(name).read_text() == key
        assert files.key.with_name(name).stat().st_mode & 0o777 == 0o600


async def test_a_program_that_fails_leaves_nothing(config: AgentConfig, nomad: Path) -> None:
    (nomad.parent / "broken").touch()
    with pytest.raises(NodeError, match="no entropy"):
        await make_certificates(config, str(nomad), "node1")
    assert list(files_of(config).ca.parent.iterdir()) == []


async def test_the_files_of_another_ca_are_found_out(config: AgentConfig, nomad: Path) -> None:
    files = files_of(config)
    await make_certificates(config, str(nomad), "node1")
    other = replace(files, ca=files.ca.with_name("other.pem"), key=files.ca_key)
    shutil.copy(files.cert, other.ca)
    certificate = await read_certificate(other)
    assert "has not signed it" in (certificate.chain_problem or "")
    assert "another certificate" in (certificate.key_problem or "")
    files.cert.write_text("nothing")
    with pytest.raises(NodeError, match="no certificate"):
        await read_certificate(files)
