from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from qemu_node.host.files.mountinfo import Mount, parse_mounts

TEXT = """\
24 1 7:0 / / ro,relatime shared:1 - ext2 /dev/loop0 ro
30 24 0:31 / /run rw,nosuid shared:2 master:1 - tmpfs tmpfs rw,mode=755
no mount at all
"""


def test_mounts_are_read_with_any_number_of_optional_fields() -> None:
    assert parse_mounts(TEXT) == [
        Mount(device="7:0", point=Path("/"), kind="ext2"),
        Mount(device="0:31", point=Path("/run"), kind="tmpfs"),
    ]


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    parse_mounts(text)
