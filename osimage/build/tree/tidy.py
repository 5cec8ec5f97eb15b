"""The last steps in a root: what an image may not have, and the time of its files.

Owns identities (no host key, machine-id, host name, password), left-overs of the build, bytecode,
and one time for everything that the build made. Links in the root lead into the root (`resolve`).
"""

import os
import shutil
from pathlib import Path, PurePosixPath

from osimage.build.namespace import run_in
from osimage.build.tree.lay import resolve

_REMOVED = (
    "etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname", "etc/resolv.conf", "etc/.pwd.lock",
    "etc/.resolv.conf.systemd-resolved.bak", "vmlinuz", "vmlinuz.old", "initrd.img",
    "initrd.img.old", "etc/ssh/ssh_host_*", "etc/passwd-", "etc/group-", "etc/shadow-",
    "etc/gshadow-", "etc/subuid-", "etc/subgid-", "etc/apt/sources.list",
    "etc/apt/sources.list.d/*",
    "var/log/alternatives.log", "var/log/bootstrap.log", "var/log/dpkg.log",
    "var/log/fontconfig.log", "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret", "root/.bash_history", "var/cache/ldconfig/aux-cache",
)  # fmt: skip
_EMPTIED = (
    "var/lib/apt/lists", "var/cache/apt", "var/log/apt", "var/cache/debconf", "tmp", "var/tmp",
    "run", "dev",
)  # fmt: skip
_WITH_BYTECODE = ("/usr/lib/python3.13", "/usr/lib/python3", "/usr/lib/qemu-node/venv/lib")

# Bytecode that Python checks against nothing: a read-only root cannot keep what it would make anew,
# and the times of all files change below.
_COMPILE = r"""set -eu
find /usr /etc -depth -name __pycache__ -type d -exec rm -rf {} +
for directory; do
    [ ! -d "$directory" ] || set -- "$@" "$directory"
    shift
done
[ $# = 0 ] || python3 -m compileall -q -j0 --invalidation-mode unchecked-hash "$@"
"""


def tidy(root: Path, epoch: int) -> None:
    """Remove what may not be in an image, compile Python, and let no time be later than `epoch`."""
    for pattern in _REMOVED:
        place = PurePosixPath(pattern)
        for path in resolve(root, place.parent).glob(place.name):
            path.unlink()
    for name in _EMPTIED:
        directory = resolve(root, PurePosixPath(name))
        if directory.is_dir():
            _empty(directory)
    run_in(root, ["sh", "-c", _COMPILE, "compile", *_WITH_BYTECODE], env={"PYTHONHASHSEED": "0"})
    for name in ("etc", "var"):
        resolve(root, PurePosixPath(name) / ".updated").touch()
    clamp_times(root, epoch)


def _empty(directory: Path) -> None:
    """Remove what is in a directory."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def clamp_times(root: Path, epoch: int) -> None:
    """Set the time of everything in `root` that is later than `epoch` to it."""
    limit_ns = epoch * 1_000_000_000
    for parent, directories, files in os.walk(root, topdown=False):
        for name in (*files, *directories, "."):
            path = os.path.join(parent, name)  # noqa: PTH118 - tens of thousands of files
            if os.lstat(path).st_mtime_ns > limit_ns:
                os.utime(path, ns=(limit_ns, limit_ns), follow_symlinks=False)


def size_of(root: Path) -> int:
    """Return how many bytes the files of a tree have, a hard link counted once."""
    seen: set[int] = set()
    total = 0
    for parent, _, files in os.walk(root):
        for name in files:
            info = os.lstat(os.path.join(parent, name))  # noqa: PTH118 - the same
            if info.st_ino not in seen:
                seen.add(info.st_ino)
                total += info.st_size
    return total
