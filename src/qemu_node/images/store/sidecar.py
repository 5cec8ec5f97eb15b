"""What a partial download is a part of, written beside it.

Owns the file `<key>.json` of the cache's `partial` directory: whoever goes on with the bytes of a
process that died, or looks how far another one is, reads it there. Does not own the bytes
(`partial`).
"""

import contextlib
from pathlib import Path

import msgspec

from qemu_node.host.process.identity import boot_id as current_boot_id
from qemu_node.text import DECODE_ERRORS


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """What the bytes beside it are a part of."""

    url: str
    """Without user, password and query."""
    etag: str | None
    """Strong; without one nobody can go on with these bytes."""
    total_bytes: int | None
    boot_id: str
    """Bytes that were not synced survive the process that wrote them, not a power cut."""

    @property
    def is_resumable(self) -> bool:
        """Whether somebody can go on with the bytes beside it."""
        return self.etag is not None and self.boot_id == current_boot_id()


def sidecar_path(partial: Path) -> Path:
    """Return where the sidecar of a partial file is."""
    return partial.with_name(f"{partial.name}.json")


def write_sidecar(partial: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of a partial file, whose lock the caller holds.

    Raises:
        OSError: the host refused.
    """
    path = sidecar_path(partial)
    # In place: readers take a torn one for none.
    path.write_bytes(msgspec.json.encode(sidecar))
    path.chmod(0o600)


def read_sidecar(partial: Path) -> Sidecar | None:
    """Return the sidecar of a partial file, None where there is none that can be read."""
    with contextlib.suppress(OSError, *DECODE_ERRORS):
        return msgspec.json.decode(sidecar_path(partial).read_bytes(), type=Sidecar)
    return None


def progress_at(partial: Path) -> tuple[int, int | None]:
    """Return how much another process has received at `partial`, and of how much in all."""
    try:
        done_bytes = partial.stat().st_size
    except OSError:
        return 0, None
    sidecar = read_sidecar(partial)
    return done_bytes, None if sidecar is None else sidecar.total_bytes
