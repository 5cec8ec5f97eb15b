"""What `osimage/binaries.toml` says: programs that are no Debian packages. Pure but `read`."""

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from osimage.build.errors import BuildError
from osimage.build.namespace import REPO

LOCK = REPO / "osimage" / "binaries.toml"

_Url = Annotated[str, msgspec.Meta(pattern=r"\Ahttps://[^\s]+\Z")]
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Fingerprint = Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-F]{40}\Z")]


class NomadLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release of Nomad."""

    version: str
    url: _Url
    sha256: _Sha256
    sums: _Url
    key: _Url
    key_fingerprint: _Fingerprint


class ElementalLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release of the Elemental CLI: a file in a container image."""

    version: str
    image: str
    digest: Annotated[str, msgspec.Meta(pattern=r"\A(sha256:[0-9a-f]{64})?\Z")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")]

    @property
    def repository(self) -> str:
        """The image's name without its tag."""
        return self.image.rpartition(":")[0]


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lock file."""

    nomad: NomadLock
    elemental: ElementalLock


def parse(text: str) -> Lock:
    """Return the lock file's content.

    Raises:
        BuildError: it is not what the build expects.
    """
    try:
        return msgspec.convert(tomllib.loads(text), Lock)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as exc:
        raise BuildError(f"{LOCK.name} is wrong: {exc}") from exc


def read(path: Path = LOCK) -> Lock:
    """Return the lock file's content.

    Raises:
        BuildError: it is not what the build expects.
    """
    return parse(path.read_text())
