import pytest

from qemu_node.config.node import parse
from qemu_node.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('addresses = ["node1"]', "web.addresses: 'node1' is not an IP address"),
        ("port = 0", "web.port must be 1 to 65535"),
        ("port = 65536", "web.port must be 1 to 65535"),
        ('cert_file = "tls.pem"', "web.cert_file must be an absolute path"),
        ('key_file = "/etc/key.pem"', "web.cert_file is not"),
        ('allowed_origins = ["console.example.com"]', "not scheme, host and port"),
        ('allowed_origins = ["https://console.example.com/path"]', "not scheme, host and port"),
        ('allowed_origins = ["https://[::1"]', "web.allowed_origins"),
        ('allowed_origins = ["https://a:99999"]', "web.allowed_origins"),
        ('nomad_address = "file:///etc/passwd"', "web.nomad_address"),
        ('nomad_address = "https://user:secret@nomad:4646"', "web.nomad_address"),
        ('auth = "password"', "needs web.password_file"),
        ('auth = "none"', "lets everybody"),
        ('auth = "tokens"', "auth"),
        ('session_idle = "1s"', "at least a minute"),
        ('session_max = "long"', "long"),
        ("prot = 5800", "there is no setting web.prot"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse(f"[web]\n{text}\n", "node.toml")


@pytest.mark.parametrize(
    "text",
    [
        'auth = "none"\naccept_open_access = true',
        'auth = "password"\npassword_file = "/etc/qemu-node/password"',
        'allowed_origins = ["https://console.example.com:8443", "https://[2001:db8::1]/"]',
        'addresses = ["127.0.0.1", "::1"]',
    ],
)
def test_settings_that_make_sense_are_taken(text: str) -> None:
    assert parse(f"[web]\n{text}\n", "node.toml").web.port == 5800
