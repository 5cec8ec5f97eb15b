import re
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.errors import ConfigError, JobError
from qemu_node.nomad.proto.hclspec_pb2 import Spec
from qemu_node.nomad.task.options import (
    ADVERTISE_MAX_S,
    GuestAgentOptions,
    NetworkOptions,
    PluginConfig,
    TaskOptions,
    parse_options,
    parse_plugin_config,
    plugin_schema,
    task_schema,
)
from qemu_node.qemu.spec import FirmwareMode, OsFamily
from qemu_node.vlans import VID_MIN, is_vid

# What a 2.0.6-dev agent sends for `config { image = "x" }`: every key, nil where the job is silent.
_SILENT: dict[str, Any] = {
    "args": None,
    "checksum": None,
    "cpus": None,
    "disk_size": None,
    "firmware": None,
    "guest_agent": None,
    "health_port": None,
    "image": "x",
    "merge": None,
    "network": [],
    "os": None,
    "ports": None,
}

_SILENT_NIC: dict[str, Any] = {
    "advertise": None,
    "isolated": None,
    "mac": None,
    "mode": None,
    "mtu": None,
    "queues": None,
    "rate": None,
    "trunk": None,
    "vlan": None,
}
_FULL_NIC: dict[str, Any] = {
    "advertise": "1m30s",
    "isolated": True,
    "mac": "52-54-00-12-34-56",
    "mode": "vlan",
    "mtu": 9000,
    "queues": 4,
    "rate": 500,
    "trunk": ["200-201", "100"],
}


def _parse(**values: Any) -> TaskOptions:
    return parse_options(msgspec.msgpack.encode(_SILENT | values))


def _schema_keys(spec: Spec) -> set[str]:
    return set(spec.object.attributes)


@pytest.mark.parametrize(
    ("spec", "struct"),
    [
        (task_schema(), TaskOptions),
        (plugin_schema(), PluginConfig),
        (task_schema().object.attributes["network"].block_list.nested, NetworkOptions),
        (task_schema().object.attributes["guest_agent"].block_value.nested, GuestAgentOptions),
    ],
)
def test_schema_and_struct_have_the_same_options(spec: Spec, struct: type[msgspec.Struct]) -> None:
    assert _schema_keys(spec) == set(struct.__struct_fields__)


def test_required_options_of_schema_and_struct_agree() -> None:
    required = {
        name for name, spec in task_schema().object.attributes.items() if spec.attr.required
    }
    without_default = {
        field.name for field in msgspec.structs.fields(TaskOptions) if field.required
    }
    assert required == without_default == {"image"}


@pytest.mark.parametrize(
    ("kinds", "hcl_type"),
    [({str}, "string"), ({bool}, "bool"), ({int}, "number")],
)
def test_types_of_schema_and_struct_agree(kinds: set[type], hcl_type: str) -> None:
    hints = typing.get_type_hints(TaskOptions)
    for name, spec in task_schema().object.attributes.items():
        if spec.attr.type != hcl_type:
            continue
        members = set(typing.get_args(hints[name])) or {hints[name]}
        bases = {base for kind in members - {type(None)} for base in kind.__mro__}
        assert kinds <= bases, name


def test_options_of_later_features_are_absent_from_the_schema() -> None:
    assert not _schema_keys(task_schema()) & {"tpm", "disk", "devices"}


def test_silent_job_gets_the_safe_defaults() -> None:
    options = _parse()
    assert options == TaskOptions(image="x")
    assert options.os is OsFamily.LINUX
    assert options.firmware is FirmwareMode.SECURE_BOOT
    assert (options.cpus, options.merge, options.ports, options.args) == (None, None, {}, ())
    assert not options.allow_exec


def test_full_job_is_read() -> None:
    options = _parse(
        checksum="sha256:00",
        disk_size="50G",
        os="windows",
        firmware="uefi",
        cpus=2,
        network=[_SILENT_NIC, _SILENT_NIC | _FULL_NIC],
        ports={"ssh": 22},
        health_port="health",
        guest_agent={"allow_exec": True},
        merge=False,
        args=["-name", "x"],
    )
    assert options.disk_size_bytes == 50 << 30
    default, full = options.network
    assert default == NetworkOptions()
    assert (full.mode, full.trunk_vids, full.isolated) == ("vlan", (100, 200, 201), True)
    assert (full.queues, full.mtu, full.rate) == (4, 9000, 500)
    assert (full.mac_address, full.advertise_s) == ("52:54:00:12:34:56", 90.0)
    assert options.allow_exec
    assert options.args == ("-name", "x")


@pytest.mark.parametrize("value", [2, 2.0, "2"])
def test_number_may_arrive_in_each_of_cty_s_forms(value: object) -> None:
    assert _parse(cpus=value).cpus == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cpus": "0.1"}, 'option "cpus" cannot be "0.1"; allowed: a whole number from 1'),
        ({"cpus": 1.5}, 'option "cpus" cannot be 1.5'),
        ({"cpus": 0}, 'option "cpus" cannot be 0'),
        ({"cpus": 10**19}, 'option "cpus" cannot be 10'),
        ({"os": "beos"}, 'option "os" cannot be "beos"; allowed: "linux" or "windows"'),
        ({"firmware": "efi"}, 'allowed: "secure-boot", "uefi" or "bios"'),
        (
            {"network": [{"mode": "tap"}]},
            'option "network.mode" cannot be "tap"; allowed: "user" or',
        ),
        ({"network": [{}] * 9}, 'option "network" cannot be .*; allowed: at most 8 blocks'),
        ({"network": [{"vlam": 3}]}, 'there is no option "network.vlam"'),
        ({"network": [{"vlan": 1}]}, 'option "network.vlan" cannot be 1; allowed: a VLAN from 2'),
        ({"network": [{}, {"vlan": 4095}]}, 'option "network.vlan" cannot be 4095'),
        ({"network": [{"trunk": ["20-10"]}]}, r'option "network.trunk" cannot be \["20-10"\]'),
        ({"network": [{"trunk": ["all"]}]}, "allowed: VLANs from 2 to 4094 and ranges"),
        (
            {"network": [{"mac": "52:54:00"}]},
            'option "network.mac" cannot be "52:54:00"; allowed: a',
        ),
        ({"network": [{"mac": "01:00:5e:00:00:01"}]}, "allowed: a unicast MAC address"),
        ({"network": [{"queues": 0}]}, 'option "network.queues" cannot be 0; .* from 1 to 16'),
        ({"network": [{"mtu": 68}]}, 'option "network.mtu" cannot be 68; allowed: bytes from 1280'),
        (
            {"network": [{"rate": 0.5}]},
            'option "network.rate" cannot be 0.5; allowed: whole Mbit/s',
        ),
        ({"network": [{"advertise": "soon"}]}, 'option "network.advertise" cannot be "soon"'),
        ({"network": [{"advertise": "11m"}]}, 'a duration such as "60s", at most 600 s'),
        ({"network": [{"advertise": "0s"}]}, 'option "network.advertise" cannot be "0s"'),
        ({"ports": {"ssh": 0}}, 'option "ports" cannot be {"ssh":0}; .* from 1 to 65535'),
        ({"ports": {"ssh": 65536}}, 'option "ports"'),
        ({"ports": {"": 22}}, 'option "ports"'),
        ({"disk_size": "50 potatoes"}, 'option "disk_size" cannot be "50 potatoes"; allowed: a'),
        ({"disk_size": "0"}, 'option "disk_size" cannot be "0"'),
        ({"image": ""}, 'option "image" cannot be ""'),
        ({"image": None}, 'option "image" is missing'),
        ({"args": ["a", None]}, 'option "args" cannot be null; allowed: a list of strings'),
        ({"guest_agent": {"allow_exec": "maybe"}}, 'option "guest_agent.allow_exec" cannot be'),
        ({"imge": "x"}, 'there is no option "imge"'),
        ({"ports": {"web": 80}, "health_port": "web"}, 'option "health_port" names the port "web"'),
    ],
)
def test_wrong_option_is_named_with_its_value_and_what_is_allowed(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        _parse(**values)


@pytest.mark.parametrize("name", ["imge", "IMAGE"])
def test_misspelt_option_gets_a_suggestion(name: str) -> None:
    with pytest.raises(JobError) as caught:
        _parse(**{name: "x"})
    assert caught.value.hint == 'did you mean "image"?'


def test_very_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(JobError) as caught:
        _parse(os="x" * 10_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x91" * 100_000 + b"\xc0", b"\xa2\xff\xff", b"\x80x", b"\x93\1\2\3", b"\xc0"],
)
def test_payload_that_is_no_map_of_options_is_refused(data: bytes) -> None:
    with pytest.raises(JobError):
        parse_options(data)


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=9),
    st.binary(max_size=9),
    st.sampled_from(
        ["50G", "linux", "user", "bios", "vlan", "60s", "100-199", "02:00:00:00:00:01"]
    ),
    st.integers(0, 5000),
)
_KEYS = st.text(max_size=5) | st.sampled_from(["allow_exec", *_SILENT_NIC])
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


def _parse_or_explain(data: bytes) -> TaskOptions | str:
    try:
        return parse_options(data)
    except JobError as exc:
        return exc.explain()


@given(st.dictionaries(st.sampled_from(sorted(_SILENT)) | st.text(max_size=5), _VALUES, max_size=8))
@settings(max_examples=300)
def test_any_options_are_read_or_refused_with_a_job_error(values: dict[str, Any]) -> None:
    outcome = _parse_or_explain(msgspec.msgpack.encode(values))
    if isinstance(outcome, str):
        assert "\n" not in outcome
    else:
        assert outcome.image
        assert outcome.disk_size_bytes is None or outcome.disk_size_bytes > 0
        for nic in outcome.network:
            assert all(is_vid(vid) for vid in (*nic.trunk_vids, nic.vlan or VID_MIN))
            assert nic.mac_address is None or re.fullmatch("([0-9a-f]{2}:){5}..", nic.mac_address)
            assert nic.advertise_s is None or 0 < nic.advertise_s <= ADVERTISE_MAX_S


@given(st.lists(st.dictionaries(st.sampled_from(sorted(_SILENT_NIC)), _SCALARS), max_size=3))
@settings(max_examples=300)
def test_any_network_is_read_or_refused_by_its_name(blocks: list[dict[str, Any]]) -> None:
    outcome = _parse_or_explain(msgspec.msgpack.encode({"image": "x", "network": blocks}))
    assert not isinstance(outcome, str) or 'option "network' in outcome


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused_with_a_job_error(data: bytes) -> None:
    assert _parse_or_explain(data)


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"", None),
        (msgspec.msgpack.encode({"config": None}), None),
        (msgspec.msgpack.encode({"config": "/etc/node.toml"}), "/etc/node.toml"),
    ],
)
def test_plugin_configuration_names_a_file_without_looking_at_it(
    data: bytes, path: str | None
) -> None:
    assert parse_plugin_config(data).config == path


def test_plugin_configuration_beside_the_schema_is_refused() -> None:
    with pytest.raises(ConfigError, match='no option "confg"'):
        parse_plugin_config(msgspec.msgpack.encode({"confg": "x"}))
