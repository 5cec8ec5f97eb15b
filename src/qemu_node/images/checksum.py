"""Checksums: what a job's `checksum` means and how a SUMS file is read. Pure.

Owns both grammars. Does not own fetching the file (`fetch`) nor the digesting (`partial`).
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from qemu_node.errors import ImageError, JobError
from qemu_node.images.source import UrlSource, url_source
from qemu_node.images.url import SCHEMES


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


_VALUE = re.compile(r"(?P<algorithm>[A-Za-z0-9-]+):(?P<digest>[0-9A-Fa-f]+)")
# coreutils `sha256sum`: digest, space, " " for text or "*" for binary, name.
_GNU_LINE = re.compile(r"(?P<digest>[0-9A-Fa-f]{64}|[0-9A-Fa-f]{128}) [ *](?P<name>.+)")
# BSD `sha256`, `sha256sum --tag`, Fedora's CHECKSUM files.
_BSD_LINE = re.compile(
    r"(?P<algorithm>SHA256|SHA512) ?\((?P<name>.+)\) ?= ?(?P<digest>[0-9A-Fa-f]+)"
)
_BARE_LINE = re.compile(r"(?P<digest>[0-9A-Fa-f]{64}|[0-9A-Fa-f]{128})")
_BY_LENGTH = {algorithm.hex_chars: algorithm for algorithm in Algorithm}


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
            f"checksum has {len(match['digest'])} digits, {algorithm} takes {algorithm.hex_chars}"
        )
    return Checksum(algorithm, match["digest"].lower())


def find_in_sums(text: str, file_name: str, origin: str) -> Checksum:
    """Return the digest of `file_name` in a SUMS file; SHA-256 where it has both.

    Understood are the GNU and the BSD form, among lines of any other kind (a signature, comments),
    and a file that is a digest and nothing else. A name with a directory matches by its last part,
    unless another line names the file exactly.

    Raises:
        ImageError: the file is not listed, or with several digests. `origin` names the SUMS file.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    listed = [entry for line in lines if (entry := _parse_line(line)) is not None]
    found = {checksum for name, checksum in listed if name == file_name}
    if not found:
        found = {checksum for name, checksum in listed if PurePosixPath(name).name == file_name}
    if not found and len(lines) == 1 and (bare := _BARE_LINE.fullmatch(lines[0])):
        found = {_from_hex(bare["digest"])}
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


def _parse_line(line: str) -> tuple[str, Checksum] | None:
    if gnu := _GNU_LINE.fullmatch(line):
        return gnu["name"], _from_hex(gnu["digest"])
    bsd = _BSD_LINE.fullmatch(line)
    if bsd and len(bsd["digest"]) == Algorithm(bsd["algorithm"].lower()).hex_chars:
        return bsd["name"], _from_hex(bsd["digest"])
    return None


def _from_hex(digest: str) -> Checksum:
    return Checksum(_BY_LENGTH[len(digest)], digest.lower())
