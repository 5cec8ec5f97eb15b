"""Checksums: what a job's `checksum` means and how a SUMS file is read. Pure.

Owns both grammars. Does not own fetching the file (`http`) nor the digesting (`store.partialfile`).
"""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from qemu_node.errors import ImageError, JobError
from qemu_node.images.errors import ChecksumMismatchError
from qemu_node.images.http.url import SCHEMES
from qemu_node.images.source.name import UrlSource, url_source


class Algorithm(StrEnum):
    """Digests that are accepted; the value is hashlib's name."""

    SHA256 = "sha256"
    SHA512 = "sha512"

    @property
    def hex_chars(self) -> int:
        """The length of a digest in hexadecimal."""
        return 64 if self is Algorithm.SHA256 else 128


@dataclass(frozen=True, slots=True)
class Checksum:
    """A digest in lower-case hexadecimal, as text `sha256:…`."""

    algorithm: Algorithm
    digest: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"


def require_equal(shown: str, actual: Checksum, wanted: Checksum) -> None:
    """Raise unless the image that is shown as `shown` has the digest `wanted`.

    Raises:
        ChecksumMismatchError: it has another one.
    """
    if actual != wanted:
        raise ChecksumMismatchError(
            f"{shown} is not the image that its checksum names: got {actual}, expected {wanted}"
        )


_VALUE = re.compile(r"(?P<algorithm>[A-Za-z0-9-]+):(?P<digest>[0-9A-Fa-f]+)")
# A digest in hexadecimal, in pairs with colons (`openssl dgst -c`) or in base64 (`cksum --base64`).
_DIGEST = (
    r"(?P<digest>[0-9A-Fa-f]{128}|[0-9A-Fa-f]{64}|(?:[0-9A-Fa-f]{2}:){31}(?:(?:[0-9A-Fa-f]{2}:){32})?"
    r"[0-9A-Fa-f]{2}|[A-Za-z0-9+/]{86}==|[A-Za-z0-9+/]{43}=)"
)
# `sha256sum`, `cksum --untagged`, `openssl dgst -r`, BSD's `sha256 -r`: a blank and then another
# one for text or "*" for binary, or one blank alone. PowerShell's Get-FileHash puts the algorithm
# before, or "Hash :" and the name on another line. The name may be missing.
_UNTAGGED_LINE = re.compile(
    rf"(?:SHA(?:256|512)[ \t]+|Hash[ \t]*:[ \t]*)?{_DIGEST}(?:[ \t]+\*?(?P<name>[^ \t].*))?"
)
# `sha256sum --tag`, BSD's `sha256`, `cksum`, Fedora's CHECKSUM files, `openssl dgst`, which writes
# SHA2-256 from version 3 on and, of standard input, none before. Not SHA3-256, SHA512/256,
# HMAC-SHA256. Any blanks may be around the "=" (coreutils' digest.c, `bsd_split_3`).
_TAGGED_LINE = re.compile(
    rf"(?:SHA(?:2-|-)?(?P<bits>256|512) ?|(?=\(stdin\)))\((?P<name>.+)\)[ \t]*=[ \t]*{_DIGEST}",
    re.IGNORECASE,
)
# What stands for standard input.
_NO_NAMES = frozenset({None, "-", "stdin"})
_ESCAPE = re.compile(r"\\([\\nr])")
_UNESCAPED = {"\\": "\\", "n": "\n", "r": "\r"}
_BY_HEX_CHARS = {algorithm.hex_chars: algorithm for algorithm in Algorithm}
# RFC 4880, 7: headers end with an empty line, the signature with its last line.
_ARMOR = {
    "-----BEGIN PGP SIGNED MESSAGE-----": "",
    "-----BEGIN PGP SIGNATURE-----": "-----END PGP SIGNATURE-----",
}


def parse_checksum(text: str) -> Checksum | UrlSource:
    """Return what a job's `checksum` says: a value, or the URL of a SUMS file.

    Raises:
        JobError: it is neither.
    """
    if text.lower().startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        return url_source(text, "checksum")
    match = _VALUE.fullmatch(text.strip())
    algorithms = {algorithm.value: algorithm for algorithm in Algorithm}
    if match is None or match["algorithm"].lower() not in algorithms:
        raise JobError(
            "checksum is neither a digest nor a URL",
            hint='write "sha256:…", "sha512:…" or the URL of a SHA256SUMS or SHA512SUMS file',
        )
    algorithm = algorithms[match["algorithm"].lower()]
    if len(match["digest"]) != algorithm.hex_chars:
        raise JobError(
            f"checksum has {len(match['digest'])} digits, {algorithm} has {algorithm.hex_chars}"
        )
    return Checksum(algorithm, match["digest"].lower())


def find_in_sums(text: str, file_name: str, origin: str) -> Checksum:
    """Return the digest of `file_name` in a SUMS file; SHA-256 where it has both.

    The formats of coreutils, OpenSSL and the BSDs are supported, among lines of any other kind (a
    signature, comments), and so is a file that is one digest. A name with a directory matches by
    its last part, unless another line names the file exactly.

    Raises:
        ImageError: the file is not listed, or it is with several digests. `origin` names the SUMS
            file.
    """
    listed = list(_entries(text))
    found = {checksum for name, checksum in listed if name == file_name}
    if not found:
        # A directory may be before the name, as Unix or as Windows writes one.
        found = {each for name, each in listed if re.split(r"[/\\]", name or "")[-1] == file_name}
    if not found and len(listed) == 1 and listed[0][0] is None:
        found = {listed[0][1]}
    for algorithm in Algorithm:
        same = [checksum for checksum in found if checksum.algorithm is algorithm]
        if len(same) > 1:
            raise ImageError(f"{origin} lists several {algorithm} digests for {file_name!r}")
        if same:
            return same[0]
    raise ImageError(
        f"{origin} lists no SHA-256 or SHA-512 digest for {file_name!r}",
        hint="the name is the last part of the image's URL",
    )


def _entries(text: str) -> Iterator[tuple[str | None, Checksum]]:
    """Yield the entries of a SUMS file: a name, None if there is none, and its digest."""
    end_of_armor: str | None = None
    # Lines end with CR, LF or both, or with NUL (`sha256sum --zero`). A byte order mark may be
    # in the middle, where files were put together.
    for line in re.split(r"\r\n|[\r\n\0]", text):
        line = line.removeprefix("\ufeff").strip()
        if end_of_armor is not None:
            end_of_armor = None if line == end_of_armor else end_of_armor
            continue
        end_of_armor = _ARMOR.get(line)
        is_escaped = line.startswith("\\")
        shown = line.removeprefix("\\")
        match = _TAGGED_LINE.fullmatch(shown) or _UNTAGGED_LINE.fullmatch(shown)
        if match is None:
            continue
        digest = _hex_of(match["digest"])
        algorithm = _BY_HEX_CHARS[len(digest)]
        bits = match["bits"] if match.re is _TAGGED_LINE else None
        if bits is not None and bits != algorithm.value.removeprefix("sha"):
            continue
        name = match["name"]
        if is_escaped and name is not None:
            name = _ESCAPE.sub(lambda escape: _UNESCAPED[escape[1]], name)
        yield None if name in _NO_NAMES else name, Checksum(algorithm, digest)


def _hex_of(digest: str) -> str:
    if digest.endswith("="):
        return base64.b64decode(digest).hex()
    return digest.replace(":", "").lower()
