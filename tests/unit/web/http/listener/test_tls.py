from pathlib import Path

import pytest

from qemu_node.config.web import WebConfig
from qemu_node.errors import ConfigError
from qemu_node.web.http.listener.tls import (
    CertificateFiles,
    fingerprint,
    given_files,
    make_context,
    public_pem,
)

PEM = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"


def test_node_toml_goes_before_what_systemd_hands_over(tmp_path: Path) -> None:
    (tmp_path / "tls-cert").write_text(PEM)
    (tmp_path / "tls-key").write_text(PEM)
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    set_by_operator = given_files(WebConfig(cert_file="/etc/c.pem", key_file="/etc/k.pem"), env)
    assert set_by_operator == CertificateFiles(cert=Path("/etc/c.pem"), key=Path("/etc/k.pem"))
    found = given_files(WebConfig(), env)
    assert found == CertificateFiles(cert=tmp_path / "tls-cert", key=tmp_path / "tls-key")


@pytest.mark.parametrize("content", ["none", ""])
def test_a_placeholder_is_no_certificate(tmp_path: Path, content: str) -> None:
    (tmp_path / "tls-cert").write_text(content)
    (tmp_path / "tls-key").write_text(content)
    assert given_files(WebConfig(), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None


def test_without_a_given_certificate_there_is_none() -> None:
    assert given_files(WebConfig(), {}) is None
    assert given_files(WebConfig(), {"CREDENTIALS_DIRECTORY": "/nonexistent"}) is None


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    missing = CertificateFiles(cert=tmp_path / "none.pem", key=None)
    with pytest.raises(ConfigError, match=r"none\.pem cannot be used: No such file") as caught:
        make_context(missing)
    assert caught.value.hint is not None
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"bad\.pem cannot be used"):
        make_context(CertificateFiles(cert=tmp_path / "bad.pem", key=None))


def test_the_fingerprint_is_that_of_the_first_certificate(tmp_path: Path) -> None:
    path = tmp_path / "c.pem"
    path.write_text(f"a key\n{PEM}{PEM}")
    shown = public_pem(CertificateFiles(cert=path, key=None))
    assert shown == PEM
    # Of 30 00, by sha256sum.
    assert fingerprint(shown).startswith("E4:F6:0D:0A:A6:D7:F3:D3")
    assert public_pem(CertificateFiles(cert=tmp_path / "none", key=None)) == ""
    assert fingerprint("") == ""
