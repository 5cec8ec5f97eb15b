"""What a build is asked for, and what is assumed where nothing is said."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from osimage.build.errors import BuildError
from osimage.build.namespace import REPO
from osimage.build.stages import MAX_AGE_DAYS
from qemu_node.errors import MissingPartError
from qemu_node.host.process.command import ProcessError, run_blocking
from qemu_node.version import VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """A build."""

    what: Literal["rootfs", "check", "iso", "oci"]
    tag: str
    out: Path
    source: str
    """Where nodes find upgrades; may be empty."""
    key: Path | None
    """The secret key that signs the manifest."""
    record: Path | None
    snapshot: str | None
    overlays: tuple[Path, ...]
    iso_overlay: Path | None
    is_plain: bool
    """Without Elemental: a root file system for tests."""
    nomad: Path | None
    """A local binary; None for the pinned release."""
    elemental: Path | None
    """The same."""
    epoch: int
    """The time of the newest file, in seconds since 1970."""
    max_age_days: int = MAX_AGE_DAYS
    """How old Debian packages may be that an earlier build has installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRequest:
    """An image that is pushed."""

    tag: str
    out: Path
    repository: str
    more_tags: tuple[str, ...]
    key: Path | None
    """The secret key; None if the manifest is signed for all tags already."""
    is_plain_http: bool


def check_files(request: BuildRequest) -> None:
    """Raise unless the files that options name are there, before anything is downloaded.

    Raises:
        BuildError: one is missing; the message names its option.
    """
    if request.key is not None and not request.key.is_file():
        raise BuildError(
            f"--key={request.key}: there is no such file",
            hint="make a key once: minisign -G -W -p release.pub -s release.key",
        )
    if request.record is not None and not request.record.is_file():
        raise BuildError(
            f"--record={request.record}: there is no such file",
            hint="it is the .packages file that an earlier build has written beside its image",
        )
    overlays = [("--overlay", path) for path in request.overlays]
    if request.iso_overlay is not None:
        overlays.append(("--iso-overlay", request.iso_overlay))
    for option, path in overlays:
        if not path.is_dir():
            raise BuildError(f"{option}={path} is no directory", hint="give one that has files")


def _git(*words: str) -> str:
    """Return what Git says; nothing without Git or a repository."""
    try:
        return run_blocking(["git", "-C", str(REPO), *words]).stdout.decode().strip()
    except (ProcessError, MissingPartError):
        return ""


def default_tag() -> str:
    """Return version and commit; `dirty` where files differ from the commit."""
    commit = _git("describe", "--always", "--dirty", "--abbrev=10", "--exclude=*")
    return f"{VERSION}-{commit}" if commit else VERSION


def local_program(variable: str) -> Path | None:
    """Return the program that an environment variable names; None if it names none.

    Raises:
        BuildError: there is no such program.
    """
    said = os.environ.get(variable)
    if not said:
        return None
    path = Path(said).resolve()
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise BuildError(f"{variable}={said} is no program")
    return path


def default_epoch() -> int:
    """Return SOURCE_DATE_EPOCH, or the time of the commit."""
    said = os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or "1767225600"
    return int(said)
