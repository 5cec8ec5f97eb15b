from pathlib import Path

import msgspec
from fakes.published import make_record
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.config.node import Paths
from qemu_node.net.spec import PortSpec
from qemu_node.vm.record import NicRecord, VMRecord

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
        rate_mbit=draw(st.none() | st.integers(1, 100_000)),
        addresses=draw(st.sampled_from([(), ("10.0.0.0/8", "2001:db8::/32")])),
    )


@given(_ports())
def test_a_port_can_be_set_up_again_from_what_is_written_down(port: PortSpec) -> None:
    user = NicRecord(mode="user", mac="02:00:00:00:00:00")
    record = make_record(_PATHS, nics=(user, NicRecord.of_port(port)))
    read = msgspec.json.decode(msgspec.json.encode(record), type=VMRecord)
    assert read.ports == (port,)


def test_a_record_from_before_there_were_ports_is_read(tmp_path: Path) -> None:
    record = make_record(Paths(run=str(tmp_path), data=str(tmp_path)))
    raw = msgspec.json.decode(msgspec.json.encode(record))
    raw["nics"] = [{"mode": "user", "mac": "02:00:00:00:00:00", "forwards": []}]
    assert msgspec.convert(raw, VMRecord).ports == ()
