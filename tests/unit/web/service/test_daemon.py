from pathlib import Path

import pytest

from qemu_node.config.web import WebConfig
from qemu_node.web.service.daemon import access_settings, nomad_server

PEM = "-----BEGIN CERTIFICATE-----\n"


@pytest.fixture
def handed_over(tmp_path: Path) -> dict[str, str]:
    for name in ("tls-cert", "tls-key", "nomad-ca"):
        (tmp_path / name).write_text(PEM)
    return {"CREDENTIALS_DIRECTORY": str(tmp_path)}


def test_nomad_is_the_agent_of_this_node() -> None:
    found = nomad_server(WebConfig(), {})
    assert found is not None
    assert (found.address, found.ca_file) == ("http://127.0.0.1:4646", None)


def test_with_a_ca_of_systemd_nomad_is_asked_over_tls(handed_over: dict[str, str]) -> None:
    found = nomad_server(WebConfig(), handed_over)
    assert found is not None
    assert found.address == "https://127.0.0.1:4646"
    assert found.ca_file is not None
    assert found.ca_file.name == "nomad-ca"
    assert found.key_file is not None


def test_a_placeholder_of_systemd_is_none(handed_over: dict[str, str]) -> None:
    for path in Path(handed_over["CREDENTIALS_DIRECTORY"]).iterdir():
        path.write_text("none")
    found = nomad_server(WebConfig(), handed_over)
    assert found is not None
    assert (found.address, found.ca_file) == ("http://127.0.0.1:4646", None)
    assert found.cert_file is None


def test_node_toml_goes_before_the_environment(handed_over: dict[str, str]) -> None:
    env = handed_over | {"NOMAD_ADDR": "http://192.0.2.1:4646"}
    by_env = nomad_server(WebConfig(), env)
    assert by_env is not None
    assert by_env.address == "http://192.0.2.1:4646"
    web = WebConfig(nomad_address="https://nomad.example:1", nomad_ca_file="/etc/ca.pem")
    by_file = nomad_server(web, env)
    assert by_file is not None
    assert (by_file.address, by_file.ca_file) == ("https://nomad.example:1", Path("/etc/ca.pem"))


def test_only_an_address_that_nobody_named_is_of_this_node(handed_over: dict[str, str]) -> None:
    servers = [
        nomad_server(WebConfig(), handed_over),
        nomad_server(WebConfig(nomad_server_name="n"), handed_over | {"NOMAD_ADDR": "https://x:1"}),
        nomad_server(WebConfig(), {"NOMAD_CACERT": "/ca.pem", "NOMAD_TLS_SERVER_NAME": "m"}),
    ]
    found = [(s.is_of_this_node, s.server_name, s.address) for s in servers if s is not None]
    assert found == [
        (True, None, "https://127.0.0.1:4646"),
        (False, "n", "https://x:1"),
        (True, "m", "https://127.0.0.1:4646"),
    ]


@pytest.mark.parametrize("auth", ["password", "none"])
def test_who_is_let_in_otherwise_has_no_nomad(auth: str) -> None:
    web = WebConfig(auth=auth, accept_open_access=True)  # type: ignore[arg-type]
    assert nomad_server(web, {}) is None


def test_the_console_is_open_only_if_node_toml_says_so() -> None:
    usual = access_settings(WebConfig())
    assert (usual.auth, usual.open_without_acls) == ("nomad", False)
    opened = access_settings(WebConfig(auth="none", accept_open_access=True))
    assert opened.auth == "open"


def test_the_node_gets_metrics_without_a_token_unless_a_guest_could_be_it() -> None:
    assert access_settings(WebConfig()).metrics_on_loopback
    guests = access_settings(WebConfig(), has_guests_on_loopback=True)
    assert not guests.metrics_on_loopback
    assert not access_settings(WebConfig(metrics_on_loopback=False)).metrics_on_loopback
    token_file = access_settings(WebConfig(metrics_token_file="/etc/token")).metrics_token_file
    assert token_file == Path("/etc/token")


def test_a_node_has_the_names_of_its_settings_and_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qemu_node.web.service.serving.own_names", lambda: ["now-this"])
    site = access_settings(
        WebConfig(names=("Console.Example.",), allowed_origins=("https://proxy.example",))
    ).site
    assert set(site.hosts) == {"console.example", "proxy.example", "now-this"}
    monkeypatch.setattr("qemu_node.web.service.serving.own_names", lambda: ["now-that"])
    assert "now-that" in site.hosts
