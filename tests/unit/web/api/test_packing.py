"""A stream by gzip."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from qemu_node.web.api.packing import Packer, Plain


@given(st.lists(st.binary(max_size=2000), max_size=8))
def test_each_piece_can_be_read_as_soon_as_it_is_there(pieces: list[bytes]) -> None:
    packer, reader = Packer(), zlib.decompressobj(16 + zlib.MAX_WBITS)
    for piece in pieces:
        assert reader.decompress(packer.pack(piece)) == piece
    assert reader.decompress(packer.end()) == b""
    assert reader.eof


def test_what_is_said_of_every_vm_is_sent_about_once() -> None:
    vms = b"".join(b'{"vm_id":"web-%012x","job":"web","state":"running"},' % n for n in range(500))
    assert len(Packer().pack(vms)) < len(vms) / 8


def test_who_does_not_know_gzip_gets_it_as_it_is() -> None:
    assert Plain().pack(b"data: 1\n\n") == b"data: 1\n\n"
    assert Plain().end() == b""
