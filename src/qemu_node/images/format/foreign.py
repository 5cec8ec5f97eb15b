"""Files that are not disk images, recognised by their first and last bytes. Pure.

Owns the signatures and the hint for each. Without them any file of whole sectors would be a raw
disk: a backup, an archive, the page of a server that does not have the file. Does not own what is
an image (`imagefile`, `qcow2`) nor what is unpacked (`unpack`).

Sources: the formats' own documents and file(1)'s magic.
"""

import re
from dataclasses import dataclass

HEAD_BYTES = 1024
"""How many of the first bytes are needed."""
TRAILER_BYTES = 512
"""How many of the last bytes: a fixed VHD and a DMG have only a trailer."""

_CONVERT = "convert it: qemu-img convert -O qcow2 IN OUT.qcow2"
_UNPACK = "unpack it and serve the image itself"
_RESTORE = "restore the disk from it and serve that"
_DECRYPT = "provide it unencrypted"
_CHECK_URL = "the URL does not serve an image: check that it is right, and public"


@dataclass(frozen=True, slots=True)
class Foreign:
    """The kind of a file, as `a zip archive` or `compressed with gzip`, and what to do about it."""

    what: str
    hint: str


_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"KDMV", "a VMDK image", _CONVERT),
    (0, b"COWD", "a VMDK image", _CONVERT),
    (0, b"# Disk DescriptorFile", "a VMDK description", _CONVERT),
    (0, b"vhdxfile", "a VHDX image", _CONVERT),
    (0, b"conectix", "a VHD image", _CONVERT),
    (64, b"\x7f\x10\xda\xbe", "a VDI image", _CONVERT),
    (0, b"QED\0", "a QED image", _CONVERT),
    (0, b"WithoutFreeSpace", "a Parallels image", _CONVERT),
    (0, b"WithouFreSpacExt", "a Parallels image", _CONVERT),
    (0, b"Bochs Virtual HD Image", "a Bochs image", _CONVERT),
    (0, b"#!/bin/sh\n#V2.0 Format", "a cloop image", _CONVERT),
    (0, b"\x3a\xff\x26\xed", "an Android sparse image", "convert it: simg2img IN OUT.img"),
    (0, b"EVF\x09\x0d\x0a\xff\0", "an EnCase image", _RESTORE),
    (0, b"EVF2\x0d\x0a\x81\0", "an EnCase image", _RESTORE),
    (0, b"AFF10\r\n\0", "an AFF image", _RESTORE),
    (0, b"VMA\0", "a Proxmox VE backup (VMA)", "extract its disk: vma extract FILE DIRECTORY"),
    (0, b"partclone-image", "a Partclone image", _RESTORE),
    (0, b"PaRtImAgE-VoLuMe", "a Partimage image", _RESTORE),
    (0, b"FsArCh_", "an FSArchiver archive", _RESTORE),
    (0, b"MSWIM\0\0\0", "a Windows image (WIM)", "install Windows from it and serve that disk"),
    (0, b"\xfe\xef\x01", "a Ghost image", _RESTORE),
    (0, b"rbd diff v", "a Ceph RBD export", _RESTORE),
    (0, b"rbd image v", "a Ceph RBD export", _RESTORE),
    (0, b"btrfs-stream\0", "a Btrfs send stream", _RESTORE),
    (8, b"\xac\xcb\xba\xf5\x02\0\0\0", "a ZFS send stream", _RESTORE),
    (8, b"\0\0\0\x02\xf5\xba\xcb\xac", "a ZFS send stream", _RESTORE),
    (0, b"xFSdump0", "an XFS dump", _RESTORE),
    (0, b"BORG_SEG", "a Borg repository", _RESTORE),
    (0, b"LibvirtQemudSave", "the saved state of a VM", _RESTORE),
    (0, b"LibvirtQemudPart", "the saved state of a VM", _RESTORE),
    (0, b"QEVM", "the saved state of a VM", _RESTORE),
    (0, b"LUKS\xba\xbe", "encrypted with LUKS", _DECRYPT),
    (0, b"Salted__", "encrypted with OpenSSL", _DECRYPT),
    (0, b"age-encryption.org/", "encrypted with age", _DECRYPT),
    (0, b"-----BEGIN PGP ", "a PGP file", _DECRYPT),
    (0, b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (0, b"\xfd7zXZ\0", "compressed with xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (0, b"BZh", "compressed with bzip2", _UNPACK),
    (0, b"BZ0", "compressed with bzip", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", _UNPACK),
    (0, b"\x02\x21\x4c\x18", "compressed with lz4", _UNPACK),
    (0, b"LZIP\x01", "compressed with lzip", _UNPACK),
    (0, b"LRZI\0", "compressed with lrzip", _UNPACK),
    (0, b"\x89LZO\0\r\n\x1a\n", "compressed with lzop", _UNPACK),
    (0, b"\xff\x06\0\0sNaPpY", "compressed with Snappy", _UNPACK),
    (0, b"\x1f\x9d", "compressed with compress", _UNPACK),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK),
    (0, b"PK\x05\x06", "a zip archive", _UNPACK),
    (0, b"PK\x07\x08", "a zip archive", _UNPACK),
    (0, b"PK00PK\x03\x04", "a zip archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"070701", "a cpio archive", _UNPACK),
    (0, b"070702", "a cpio archive", _UNPACK),
    (0, b"070707", "a cpio archive", _UNPACK),
    (0, b"\xc7\x71", "a cpio archive", _UNPACK),
    (0, b"\x71\xc7", "a cpio archive", _UNPACK),
    (0, b"!<arch>\n", "an ar archive", _UNPACK),
    (0, b"MSCF\0\0\0\0", "a cabinet archive", _UNPACK),
    (0, b"xar!", "a xar archive", _UNPACK),
    (2, b"-lh", "an LHA archive", _UNPACK),
    (7, b"**ACE**", "an ACE archive", _UNPACK),
    (0, b"\xed\xab\xee\xdb", "an RPM package", _UNPACK),
    (0, b"\x7fELF", "a program (ELF)", _CHECK_URL),
    (0, b"%PDF-", "a PDF file", _CHECK_URL),
    (0, b"SQLite format 3\0", "an SQLite database", _CHECK_URL),
    (0, b"\x89PNG\r\n\x1a\n", "a picture", _CHECK_URL),
    (0, b"\xff\xd8\xff", "a picture", _CHECK_URL),
    (0, b"#!/", "a script", _CHECK_URL),
    (0, b"version https://git-lfs.", "a pointer of Git LFS", "serve the file that it points to"),
    (0, b"d8:announce", "a torrent", "serve the file that it describes"),
)  # fmt: skip
_TRAILERS = (
    (b"conectix", "a VHD image", _CONVERT),
    (b"koly", "a DMG image", _CONVERT),
)
# As `xz --format=lzma` begins a file: its properties, a dictionary of 2^n bytes, its size or -1.
_LZMA = re.compile(rb"\x5d\0\0[\0-\xff][\0-\x04](?:\xff{8}|[\0-\xff]{5}\0{3})\0", re.DOTALL)
_HTML = re.compile(
    rb"<(?:!doctype\s+html|html|head|body|title|script|meta|h1|p)[\s>]", re.IGNORECASE
)
_XML = re.compile(rb"<(?:\?xml\s|!--|!doctype\s|[a-z][\w:.-]{0,100}[\s/>])", re.IGNORECASE)
_JSON = re.compile(rb'(?:\{\s*(?:"[^"\0]*"\s*:|\})|\[\s*(?:["{\[]|\]))')
_TAR_BLOCK_BYTES = 512
_TAR_SUM = slice(148, 156)


def foreign(head: bytes, trailer: bytes) -> Foreign | None:
    """Return the kind of the file with these first and last bytes; None if it may be a disk.

    Both may be shorter if the file is.
    """
    for offset, magic, what, hint in _SIGNATURES:
        if head.startswith(magic, offset):
            return Foreign(what, hint)
    for magic, what, hint in _TRAILERS:
        if trailer.startswith(magic):
            return Foreign(what, hint)
    if _LZMA.match(head):
        return Foreign("compressed with lzma", _UNPACK)
    if _is_old_tar(head[:_TAR_BLOCK_BYTES]):
        return Foreign("a tar archive", _UNPACK)
    return _page(head)


def _page(head: bytes) -> Foreign | None:
    """Recognise by its first bytes a text that a server sends instead of a file."""
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = head.decode(encoding, errors="replace").lstrip().encode()
    if _HTML.match(text):
        return Foreign("a web page", "open the image's URL in a browser")
    if _XML.match(text):
        return Foreign("an XML document", _CHECK_URL)
    if _JSON.match(text):
        return Foreign("a JSON document", _CHECK_URL)
    return None


def _is_old_tar(block: bytes) -> bool:
    """Recognise a tar header from before POSIX, which has no signature, by its sum (man 5 tar)."""
    try:
        wanted = int(block[_TAR_SUM].strip(b" \0"), 8)
    except ValueError:
        return False
    actual = sum(block) - sum(block[_TAR_SUM]) + len(block[_TAR_SUM]) * ord(" ")
    return len(block) == _TAR_BLOCK_BYTES and block[0] != 0 and wanted == actual
