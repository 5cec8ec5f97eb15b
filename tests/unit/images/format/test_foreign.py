import io
import lzma
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.images.format.foreign import HEAD_BYTES, TRAILER_BYTES, foreign

NOTHING = bytes(TRAILER_BYTES)


def named(head: bytes) -> str | None:
    found = foreign(head.ljust(HEAD_BYTES, b"\0")[:HEAD_BYTES], NOTHING)
    assert found is None or found.hint
    return None if found is None else found.what


def tar(format_: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as archive:
        archive.addfile(tarfile.TarInfo("disk.img"))
    return buffer.getvalue()


# A header of tar before POSIX ends with the link's name.
OLD_TAR = bytearray(tar(tarfile.USTAR_FORMAT)[:512])
OLD_TAR[257:] = bytes(255)
OLD_TAR[148:156] = b" " * 8
OLD_TAR[148:156] = b"%06o\0 " % sum(OLD_TAR)


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"PK\x05\x06", "a zip archive"),
        (b"Rar!\x1a\x07\x01\0", "a RAR archive"),
        (b"070701", "a cpio archive"),
        (tar(tarfile.GNU_FORMAT), "a tar archive"),
        (bytes(OLD_TAR), "a tar archive"),
        (b"\x04\x22\x4d\x18", "compressed with lz4"),
        (b"LZIP\x01", "compressed with lzip"),
        (lzma.compress(b"x", format=lzma.FORMAT_ALONE), "compressed with lzma"),
        (b"partclone-image", "a Partclone image"),
        (b"MSWIM\0\0\0", "a Windows image (WIM)"),
        (b"EVF\x09\x0d\x0a\xff\0\1", "an EnCase image"),
        (b"\x7fELF", "a program (ELF)"),
        (b"#!/bin/sh\n", "a script"),
        (b"  <!-- x --><html>", "an XML document"),
        (b"\xef\xbb\xbf<!doctype  HTML>", "a web page"),
        ("\ufeff<html>".encode("utf-16-le"), "a web page"),
        (b'<?xml version="1.0"?>\n<Error>', "an XML document"),
        (b"<ListBucketResult xmlns=", "an XML document"),
        (b'{"errors":[{"code":"DENIED"}]}', "a JSON document"),
        (b'{\n  "message": "Not Found"\n}', "a JSON document"),
        (b"[{", "a JSON document"),
    ],
)
def test_what_is_no_disk_is_named(head: bytes, what: str) -> None:
    assert named(head) == what


@pytest.mark.parametrize(
    "head",
    [
        bytes(HEAD_BYTES),
        b"\xeb\x63\x90" + bytes(507) + b"\x55\xaa" + b"EFI PART",
        b"\xeb\x3c\x90MSDOS5.0",
        b"\xeb\x52\x90NTFS    ",
        b"XFSB",
        b"hsqs",
        b"\x33\xc0\x8e\xd0",
        b"\x45\x52\x08\0\0\0\x90\x90",
        b"< 5",
        b"{",
        b"[boot",
        b"disk" * 200,
    ],
)
def test_what_may_be_a_disk_is_not_named(head: bytes) -> None:
    assert named(head) is None


@given(st.binary(max_size=HEAD_BYTES), st.binary(max_size=TRAILER_BYTES))
def test_any_bytes_are_something_or_maybe_a_disk(head: bytes, trailer: bytes) -> None:
    found = foreign(head, trailer)
    assert found is None or found.what
