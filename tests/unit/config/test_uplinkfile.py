import contextlib
import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.config.uplink import UplinkConfig, UplinkVlan
from qemu_node.config.uplinkfile import (
    find_known_uplink,
    find_uplink,
    format_uplink,
)
from qemu_node.errors import ConfigError

FULL = UplinkConfig(
    mode="lacp",
    nics=("52:54:00:0a:00:01", "0000:03:00.0", "eno*"),
    mac="52:54:00:0a:00:01",
    vlan=99,
    mtu=9000,
    dhcp=False,
    addresses=("192.0.2.10/24", "2001:db8::10/64"),
    gateways=("192.0.2.1",),
    dns=("192.0.2.53",),
    domains=("example.org",),
    vlans=(
        UplinkVlan(vlan=200, addresses=("198.51.100.10/24",), mtu=9000),
        UplinkVlan(vlan=201, dhcp=True),
    ),
)


@pytest.mark.parametrize("settings", [UplinkConfig(), FULL])
def test_what_is_written_is_read_as_the_same(settings: UplinkConfig) -> None:
    assert find_uplink(format_uplink(settings), "uplink.toml") == settings


def test_only_what_differs_from_the_defaults_is_written() -> None:
    assert format_uplink(UplinkConfig(mtu=9000)) == "[uplink]\nmtu = 9000\n"


def test_an_error_elsewhere_in_node_toml_does_not_take_the_node_off_the_network() -> None:
    text = '[uplink]\nmode = "lacp"\n[images]\ndownloads = -1\n'
    assert find_uplink(text, "node.toml") == UplinkConfig(mode="lacp")


def test_a_node_toml_without_the_table_says_nothing_about_the_uplink() -> None:
    assert find_uplink('[network]\nbridge = "br0"\n', "node.toml") is None


@given(
    st.dictionaries(
        st.sampled_from(UplinkConfig.__struct_fields__),
        st.one_of(st.text(max_size=9), st.integers(), st.booleans(), st.lists(st.text(max_size=9))),
        max_size=3,
    )
)
def test_any_settings_are_refused_or_stay_on_their_lines(values: dict[str, Any]) -> None:
    text = "[uplink]\n" + "".join(f"{name} = {value!r}\n" for name, value in values.items())
    with contextlib.suppress(ConfigError):
        settings = find_uplink(text, "uplink.toml")
        assert settings is not None
        written = format_uplink(settings)
        assert len(written.splitlines()) <= 1 + len(tomllib.loads(written)["uplink"])


@given(
    st.recursive(
        st.integers() | st.booleans() | st.text("ab\n", max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["vlans", "vlan", "nics", "x"]), inner, max_size=2)
        ),
        max_leaves=6,
    )
)
def test_any_table_is_read_at_boot_or_an_error_for_people(value: object) -> None:
    text = f"uplink = {_inline(value)}\n"
    with contextlib.suppress(ConfigError):
        find_known_uplink(text, "node.toml")


def _inline(value: object) -> str:
    """Return a value as TOML has it on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return json.dumps(value)
