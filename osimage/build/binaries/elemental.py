"""The Elemental CLI: one file of its official container image, which skopeo fetches by digest."""

import gzip
import json
import shutil
import tarfile
import zlib
from pathlib import Path

from osimage.build.binaries.download import sha256_of
from osimage.build.binaries.lock import ElementalLock
from osimage.build.errors import BuildError
from osimage.build.stages import Stages, digest_of
from osimage.build.tools import run_skopeo
from qemu_node.host.process.command import ProcessError

_FILE = "usr/bin/elemental"
_PIN_HINT = (
    "run `sudo .venv/bin/python -m osimage.build pin` and write what it prints there; or "
    "ELEMENTAL=PATH"
)


def require_pinned(lock: ElementalLock) -> None:
    """Raise unless the lock file says which program it must be.

    Raises:
        BuildError: it does not.
    """
    if not lock.digest or not lock.sha256:
        raise BuildError(
            f"osimage/binaries.toml has no digest for Elemental {lock.version}", hint=_PIN_HINT
        )


def fetch_elemental(stages: Stages, tools: Path, lock: ElementalLock) -> Path:
    """Return the program of the pinned release, downloaded once and checked at each use.

    Raises:
        BuildError: it is not pinned, cannot be fetched, or is not what the lock file says.
    """
    require_pinned(lock)

    def make(target: Path, scratch: Path) -> None:
        pull(tools, f"{lock.repository}@{lock.digest}", target, scratch)
        got = sha256_of(target)
        if got != lock.sha256:
            raise BuildError(f"{_FILE} has sha256 {got}, not {lock.sha256} of binaries.toml")

    digest = digest_of(["elemental 1", repr(lock)])
    return stages.get(
        "elemental", digest, make, about=f"downloads the Elemental CLI {lock.version}",
        is_sound=lambda kept: sha256_of(kept) == lock.sha256,
    )  # fmt: skip


def pull(tools: Path, image: str, target: Path, scratch: Path) -> None:
    """Write the program in the container image `image` to the file `target`.

    Raises:
        BuildError: it cannot be fetched, or the image does not have it.
    """
    layout = scratch / "image"
    try:
        run_skopeo(
            tools,
            ["copy", "--override-os=linux", "--override-arch=amd64",
             f"docker://{image}", "dir:/work/image"],
            binds={scratch: "/work"},
        )  # fmt: skip
    except ProcessError as exc:
        raise BuildError(f"cannot fetch {image}: {exc}", hint="or give ELEMENTAL=PATH") from exc
    manifest = json.loads((layout / "manifest.json").read_bytes())
    # The topmost layer that has the file.
    for layer in reversed(manifest["layers"]):
        try:
            if _extract(layout / layer["digest"].partition(":")[2], target):
                return
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as exc:
            raise BuildError(
                f"{image} has a layer that is no gzip file of a tar archive: {exc}",
                hint="or give ELEMENTAL=PATH",
            ) from exc
    raise BuildError(f"{image} has no /{_FILE}")


def _extract(layer: Path, target: Path) -> bool:
    with gzip.open(layer) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as archive:
        for member in archive:
            if member.name.removeprefix("./") == _FILE and member.isfile():
                source = archive.extractfile(member)
                assert source is not None
                with target.open("wb") as file:
                    shutil.copyfileobj(source, file)
                target.chmod(0o755)
                return True
    return False


def pin(tools: Path, lock: ElementalLock, scratch: Path) -> tuple[str, str]:
    """Return digest and sha256 for the lock file, as the registry has them now.

    Raises:
        BuildError: the registry does not have the image.
    """
    try:
        digest = run_skopeo(
            tools,
            ["inspect", "--no-tags", "--override-os=linux", "--override-arch=amd64",
             "--format={{.Digest}}", f"docker://{lock.image}"],
        ).decode().strip()  # fmt: skip
    except ProcessError as exc:
        raise BuildError(f"cannot ask for {lock.image}: {exc}") from exc
    target = scratch / "elemental"
    pull(tools, f"{lock.repository}@{digest}", target, scratch)
    return digest, sha256_of(target)
