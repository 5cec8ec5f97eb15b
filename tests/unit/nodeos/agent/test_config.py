from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import ConfigError
from qemu_node.nodeos.agent.config import (
    AgentConfig,
    agent_config,
    config_files,
    merge,
    parse,
    read_agent_config,
)

_SERVER = """
server {
  enabled          = true
  bootstrap_expect = 3
  encrypt          = "c2VjcmV0"
}
"""
_CLIENT = """
client {
  enabled = true
  server_join {
    retry_join = ["a.example.net", "b.example.net"]
  }
  options = {
    "driver.denylist" = "docker"
  }
}
plugin "vm" {}
plugin "raw_exec" {
  config { enabled = true }
}
"""
_SECURITY = """
acl { enabled = true }
tls {
  http      = true
  rpc       = true
  ca_file   = "/data/config/tls/ca.pem"
  cert_file = "/data/config/tls/node.pem"
  key_file  = "/data/config/tls/node-key.pem"
  verify_server_hostname = true
}
"""


def config_of(text: str) -> AgentConfig:
    return agent_config(parse(text, Path("x.hcl")))


def test_a_directory_without_files_means_nomads_defaults(tmp_path: Path) -> None:
    assert read_agent_config(tmp_path) == AgentConfig()


def test_all_files_of_a_directory_are_one_configuration(tmp_path: Path) -> None:
    (tmp_path / "client.hcl").write_text(_CLIENT)
    (tmp_path / "server.hcl").write_text(_SERVER)
    (tmp_path / "security.hcl").write_text(_SECURITY)
    (tmp_path / "more.json").write_text('{"region": "north", "ports": {"http": 14646}}')
    (tmp_path / "node.toml").write_text("this is not Nomad's")
    (tmp_path / ".hidden.hcl").write_text("}{")
    config = read_agent_config(tmp_path)
    assert (config.is_server, config.is_client, config.bootstrap_expect) == (True, True, 3)
    assert config.servers == ("a.example.net", "b.example.net")
    assert config.plugins == ("vm", "raw_exec")
    assert (config.has_acl, config.has_gossip_key) == (True, True)
    assert (config.region, config.http_port) == ("north", 14646)
    assert config.tls.is_on
    assert config.tls.verifies_server_name
    assert config.tls.files["key_file"] == "/data/config/tls/node-key.pem"


def test_a_later_file_wins_and_leaves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.hcl").write_text('tls { http = true\n ca_file = "a" }\nregion = "a"')
    (tmp_path / "b.hcl").write_text('tls { ca_file = "b" }')
    config = read_agent_config(tmp_path)
    assert config.tls.is_http
    assert config.tls.ca_file == "b"
    assert config.region == "a"


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("", "127.0.0.1"),
        ('bind_addr = "0.0.0.0"', "127.0.0.1"),
        ('bind_addr = "10.0.0.5"', "10.0.0.5"),
        ('bind_addr = "10.0.0.5"\naddresses { http = "127.0.0.1" }', "127.0.0.1"),
        ('addresses { http = "{{ GetInterfaceIP \\"br0\\" }}" }', "127.0.0.1"),
        ('addresses { http = "10.0.0.5 127.0.0.1" }', "10.0.0.5"),
    ],
)
def test_the_api_is_where_the_agent_listens(text: str, host: str) -> None:
    assert config_of(text).http_host == host


def test_old_notations_of_hcl_are_taken() -> None:
    assert config_of("tls = { http = true }").tls.is_http
    assert config_of('server { enabled = "true" }').is_server
    assert config_of('client { enabled = true\n servers = ["x:4647"] }').servers == ("x:4647",)


@pytest.mark.parametrize("text", ["client {", "x =", '"', "client { enabled = }"])
def test_what_is_no_hcl_is_an_error_with_the_file(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^/etc/x\.hcl"):
        parse(text, Path("/etc/x.hcl"))


@pytest.mark.parametrize("text", ["", "[1]", "7", "[" * 100_000])
def test_what_is_no_json_object_is_an_error_with_the_file(text: str) -> None:
    with pytest.raises(ConfigError, match=r"x\.json"):
        parse(text, Path("x.json"))


def test_a_directory_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config_files(tmp_path / "none")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)
_NAMES = st.sampled_from(["client", "server", "tls", "ports", "acl", "plugin", "region", "x"])


@given(st.dictionaries(_NAMES, _VALUES, max_size=5), st.dictionaries(_NAMES, _VALUES, max_size=5))
def test_settings_of_wrong_types_never_raise(
    earlier: dict[str, object], later: dict[str, object]
) -> None:
    agent_config(merge(earlier, later))
