"""What has passed each device."""

from hypothesis import given
from hypothesis import strategies as st

from qemu_node.web.metrics.netdev import NET_DEV, Traffic, parse_net_dev

TEXT = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
qn3f9c1a2b0:1000 20 0 3 0 0 0 0 4000 50 0 6 0 0 0 0
  eth0:1: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1
"""  # noqa: E501


def test_what_the_node_receives_on_a_tap_its_guest_has_sent() -> None:
    found = parse_net_dev(TEXT)
    assert found["qn3f9c1a2b0"] == Traffic(
        sent_bytes=1000,
        sent_frames=20,
        send_drops=3,
        received_bytes=4000,
        received_frames=50,
        receive_drops=6,
    )
    assert set(found) == {"lo", "qn3f9c1a2b0", "eth0:1"}


def test_this_kernels_file_is_understood() -> None:
    assert "lo" in parse_net_dev(NET_DEV.read_text())


@given(st.text())
def test_no_text_is_an_error(text: str) -> None:
    parse_net_dev(text)
