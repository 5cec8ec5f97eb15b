"""Where the guests that tests boot are kept between runs, and how two runs share them.

Owns the directory and the locking. Does not know what is kept in it.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
"""The root of this repository."""


def cache_dir() -> Path:
    """Return the directory that the tests, the demo and the image's build program share."""
    xdg = os.environ.get("XDG_CACHE_HOME")
    return Path(xdg) / "qemu-node" if xdg else REPO / ".cache"


def fingerprint(sources: Iterable[Path], *words: str) -> str:
    """Return a short digest of the content of `sources` and of `words`."""
    digest = hashlib.sha256("\0".join(words).encode())
    for source in sources:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:12]


def cached(
    directory: Path, stem: str, digest: str, suffix: str, make: Callable[[Path, Path], None]
) -> Path:
    """Return `directory/stem-digest+suffix`, made by `make(target, scratch)` unless it is there.

    Two processes that ask at once do the work once. What is made, a file or a directory, appears
    whole or not at all; what other digests left behind is removed. `scratch` is an empty directory
    that ends with the call.
    """
    directory.mkdir(parents=True, exist_ok=True)
    wanted = directory / f"{stem}-{digest}{suffix}"
    with (directory / f"{stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if wanted.exists():
            return wanted
        scratch = Path(tempfile.mkdtemp(prefix=f"{stem}.", dir=directory))
        try:
            target = scratch / "made"
            make(target, scratch)
            target.replace(wanted)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        for old in directory.glob(f"{stem}-*{suffix}"):
            # Not what is kept or made under a longer stem: `stem-more-digest`, `stem-more.scratch`.
            words = old.name.removeprefix(f"{stem}-").removesuffix(suffix)
            if old != wanted and words.isalnum():
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    return wanted
