import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.published import make_record
from guests.cache import REPO
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.config.node import Paths
from qemu_node.net.portspec import PortSpec
from qemu_node.qemu.spec import OsFamily
from qemu_node.vm.record.record import (
    RECORD_VERSION,
    STATE_VERSION,
    NicRecord,
    StateError,
    VMRecord,
    VMState,
    read_record,
)

_VIDS = st.integers(2, 4094)
_PATHS = Paths(run="/run/qemu-node", data="/data")


@st.composite
def _ports(draw: st.DrawFn) -> PortSpec:
    trunk = tuple(sorted(draw(st.sets(_VIDS, max_size=3))))
    return PortSpec(
        vm_id="web-0123456789ab",
        index=1,
        ifname="qn0123456789abc",
        mac="02:00:00:00:00:01",
        vlan=None if trunk else draw(_VIDS),
        trunk=trunk,
        isolated=draw(st.booleans()),
        queues=draw(st.integers(1, 16)),
        mtu=draw(st.none() | st.integers(1280, 9216)),
        strict=draw(st.booleans()),
        rate_mbit=draw(st.none() | st.integers(1, 100_000)),
        addresses=draw(st.sampled_from([(), ("10.0.0.0/8", "2001:db8::/32")])),
    )


@given(_ports())
def test_a_port_can_be_set_up_again_from_what_is_written_down(port: PortSpec) -> None:
    user = NicRecord(mode="user", mac="02:00:00:00:00:00")
    record = make_record(_PATHS, nics=(user, NicRecord.of_port(port)))
    read = msgspec.json.decode(msgspec.json.encode(record), type=VMRecord)
    assert read.ports == (port,)


def goldens() -> list[Path]:
    return sorted((REPO / "tests" / "data" / "state").glob("*.json"))


def written(**changes: Any) -> dict[str, Any]:
    """Return what a driver of today wrote, with changes."""
    state: dict[str, Any] = json.loads((goldens()[-1]).read_bytes())
    return {**state, **changes}


def encoded(state: dict[str, Any]) -> bytes:
    return json.dumps(state).encode()


@pytest.mark.parametrize("path", goldens(), ids=lambda path: path.stem)
def test_the_state_that_each_release_wrote_is_read(path: Path) -> None:
    assert path.stem.startswith(f"v{json.loads(path.read_bytes())['version']}")
    state = VMState.decode(path.read_bytes(), path.name)
    assert (state.version, state.record.version) == (STATE_VERSION, RECORD_VERSION)
    assert state.vm_id == state.record.vm_id == "web-0123456789ab"
    assert state.record.process.pid == 4242
    assert [port.vlan for port in state.record.ports] == [120]
    assert state.record.display_name == "shop/front[0]/web"
    assert (state.record.hardware.os, state.record.hardware.vcpus) == (OsFamily.LINUX, 2)
    assert VMState.decode(state.encode(), "again") == state


def test_there_is_a_golden_state_of_every_version() -> None:
    versions = {json.loads(path.read_bytes())["version"] for path in goldens()}
    assert versions == set(range(1, STATE_VERSION + 1))


def test_keys_of_a_later_release_of_the_same_version_are_passed_over() -> None:
    state = VMState.decode(encoded(written(invented="later")), "state.json")
    assert state.uid == 200_123


def test_of_a_newer_version_an_older_driver_reads_what_finds_and_kills_the_vm() -> None:
    newer = written(version=STATE_VERSION + 1, scope=["a", "b"], health="elsewhere")
    newer["record"] = {
        key: newer["record"][key] for key in ("vm_id", "pid", "start_time", "nics")
    } | {"sockets": "one"}
    with pytest.raises(
        StateError, match=f"a newer driver wrote it, version {STATE_VERSION + 1}"
    ) as caught:
        VMState.decode(encoded(newer), "state.json")
    header = caught.value.header
    assert header is not None
    assert (header.vm_id, header.record.pid) == ("web-0123456789ab", 4242)
    assert [port.ifname for port in header.record.ports] == ["qn0123456789ab1"]


@pytest.mark.parametrize("path", goldens(), ids=lambda path: path.stem)
def test_the_vm_json_that_each_release_wrote_is_read(path: Path, tmp_path: Path) -> None:
    published = tmp_path / "vm.json"
    published.write_bytes(json.dumps(json.loads(path.read_bytes())["record"]).encode())
    record = read_record(published)
    assert record == VMState.decode(path.read_bytes(), path.name).record


def test_a_state_of_an_earlier_version_that_lacks_a_key_says_which() -> None:
    state = json.loads(goldens()[0].read_bytes())
    del state["record"]["alloc_id"]
    with pytest.raises(StateError, match="alloc_id") as caught:
        VMState.decode(encoded(state), "state.json")
    assert caught.value.header is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"vm_id": "../../etc"},
        {"vm_id": "/srv"},
        {"data_dir": "/data/vm/other-0123456789ab"},
        {"data_dir": "vm/web-0123456789ab"},
        {"run_dir": "/run/vm/../web-0123456789ab"},
        {"data_dir": "/"},
        {"version": 0},
        {"record": {"vm_id": "web-0123456789ab", "pid": 0, "start_time": 1, "nics": []}},
    ],
)
def test_a_state_that_names_what_no_driver_made_is_not_believed(changes: dict[str, Any]) -> None:
    with pytest.raises(StateError) as caught:
        VMState.decode(encoded(written(**changes)), "state.json")
    assert caught.value.header is None


@given(st.binary(max_size=200) | st.recursive(st.none(), st.lists).map(json.dumps).map(str.encode))
def test_whatever_is_no_state_is_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(StateError):
        VMState.decode(data, "state.json")


def test_nesting_without_end_is_an_error_of_ours() -> None:
    with pytest.raises(StateError):
        VMState.decode(b'{"version":' + b"[" * 100_000, "state.json")


def test_a_vm_json_of_a_newer_driver_says_so(tmp_path: Path) -> None:
    path = tmp_path / "vm.json"
    path.write_bytes(
        encoded({"version": RECORD_VERSION + 1, "vm_id": ["not", "what", "it", "was"]})
    )
    with pytest.raises(StateError, match="a newer driver wrote it") as caught:
        read_record(path)
    assert caught.value.hint == "upgrade this driver"
