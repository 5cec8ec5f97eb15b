"""What a source has served, version by version, and how to ask whether it has changed. Pure.

Owns the format of the records and every change of one. Does not own their files (`store`).

A record names images by digest. The version that the source served last is the record itself;
`earlier` are the versions before it whose images are still in the cache: a job whose checksum names
one of them needs no download, whatever the source serves now.

Compatibility: a record is a JSON object. Unknown fields are ignored, missing ones have defaults.
Records that were written before there was `earlier` have one version; an older driver reads only
the last version of a newer record. A change that breaks this needs a new `RECORD_VERSION`: a record
of another version is ignored, so its image is outdated and is downloaded again.
"""

from collections.abc import Collection
from typing import Any, Self

import msgspec

from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.source.checksum import Algorithm, Checksum

RECORD_VERSION = 1

_SIGNATURES_MAX = 64


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a source served, and the image in the cache that came of it."""

    sha256: str
    """Of the image itself."""
    source_sha256: str | None = None
    """Of the file as served, if that was compressed; else it is the image's."""
    sha512: str | None = None
    """Of the file as served; known only if a checksum asked for it, or the file was compressed."""
    format: ImageFormat
    size_bytes: int
    virtual_size_bytes: int
    fetched_at: float
    """Unix time at which the image was complete."""
    sums_key: str | None = None
    """Key of the SUMS file that listed this version, and no other of its source, when last read."""
    sums_checked_at: float | None = None
    """Unix time at which the SUMS file was read."""
    by_digest: bool = False
    """A job has named it by its digest."""

    @property
    def served_sha256(self) -> str:
        """SHA-256 of the file as served: it tells the versions of a source apart."""
        return self.source_sha256 or self.sha256

    @property
    def blob_name(self) -> str:
        """The name of the image's file."""
        return f"sha256-{self.sha256}.{self.format}"

    @property
    def is_asked_for(self) -> bool:
        """Whether jobs ask for this version, whatever the source serves now."""
        return self.by_digest or self.sums_key is not None

    def checksum(self, algorithm: Algorithm) -> Checksum | None:
        """Return the digest of the file as served, or None if it is not known."""
        digest = self.served_sha256 if algorithm is Algorithm.SHA256 else self.sha512
        return None if digest is None else Checksum(algorithm, digest)


class SourceRecord(Version, frozen=True, kw_only=True):
    """What a source served last and before, and how to ask whether it has changed."""

    version: int = RECORD_VERSION
    url: str
    """Without user, password and query."""
    etag: str | None = None
    last_modified: str | None = None
    checked_at: float
    """Unix time at which the source last said that this is its image."""
    signatures: tuple[str, ...] = ()
    """The presigned URLs (`Remote.signature`) for which the source served this version."""
    pinned: bool = False
    """The operator has pinned this source."""
    earlier: tuple[Version, ...] = ()
    """The versions before, the newest first."""

    @property
    def versions(self) -> tuple[Version, ...]:
        """All versions, the newest first."""
        return (self, *self.earlier)

    def find(self, wanted: Checksum) -> Version | None:
        """Return the version with the digest `wanted`; None if none is known to have it."""
        for version in self.versions:
            if version.checksum(wanted.algorithm) == wanted:
                return version
        return None

    def listed_by(self, sums_key: str) -> Version | None:
        """Return the version that a SUMS file listed last."""
        return next((each for each in self.versions if each.sums_key == sums_key), None)

    def after(self, former: Self | None) -> Self:
        """Return this record of a new download with what `former` knows.

        That is what it knows of the same version, its other versions, and whether it is pinned.
        """
        if former is None:
            return self
        known = {each.served_sha256: each for each in former.versions}
        same = known.pop(self.served_sha256, None)
        record = msgspec.structs.replace(
            self, pinned=former.pinned, earlier=tuple(map(_bare, known.values()))
        )
        if same is None:
            return record
        return msgspec.structs.replace(
            record,
            sha512=record.sha512 or same.sha512,
            fetched_at=same.fetched_at,
            sums_key=same.sums_key,
            sums_checked_at=same.sums_checked_at,
            by_digest=same.by_digest,
        )

    def confirmed(self, now_s: float, signature: str | None) -> Self:
        """Return the record after the source has said that it still serves this version."""
        signatures = self.signatures
        if signature is not None:
            others = (each for each in self.signatures if each != signature)
            signatures = (signature, *others)[:_SIGNATURES_MAX]
        return msgspec.structs.replace(self, checked_at=now_s, signatures=signatures)

    def reduced_to(self, kept: Collection[Version]) -> Self | None:
        """Return the record with only the versions in `kept`; None if there are none.

        Without the last version, the one before it takes its place, and the source is asked again.
        """
        versions = [each for each in self.versions if each in kept]
        if not versions:
            return None
        earlier = tuple(map(_bare, versions[1:]))
        if versions[0] is self:
            return msgspec.structs.replace(self, earlier=earlier)
        return msgspec.structs.replace(
            self,
            **_fields(versions[0]),
            etag=None,
            last_modified=None,
            checked_at=0.0,
            signatures=(),
            earlier=earlier,
        )

    def with_version(self, served_sha256: str, **changes: Any) -> Self:
        """Return the record with the fields `changes` of one version changed."""
        earlier = tuple(
            msgspec.structs.replace(each, **changes)
            if each.served_sha256 == served_sha256
            else each
            for each in self.earlier
        )
        own = changes if self.served_sha256 == served_sha256 else {}
        return msgspec.structs.replace(self, earlier=earlier, **own)

    def with_listed(self, served_sha256: str, sums_key: str, now_s: float) -> Self:
        """Return the record after a SUMS file was read that lists one version."""
        record = self
        for each in self.versions:
            if each.sums_key == sums_key:
                record = record.with_version(
                    each.served_sha256, sums_key=None, sums_checked_at=None
                )
        return record.with_version(served_sha256, sums_key=sums_key, sums_checked_at=now_s)


def _fields(version: Version) -> dict[str, Any]:
    return {name: getattr(version, name) for name in Version.__struct_fields__}


def _bare(version: Version) -> Version:
    """Return a version without the other fields of a record."""
    return Version(**_fields(version))
