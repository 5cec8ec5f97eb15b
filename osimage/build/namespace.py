"""Where the steps of a build act: as root, or as root of a user namespace, and in a root directory.

Owns namespaces, mounts and the environment of what is started. Does not own what is started.
Mounts belong to a namespace of the step: they end with it, however it ends.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from osimage.build.errors import BuildError
from qemu_node.host.process.command import SAFE_ENV, Completed, run_blocking

REPO = Path(__file__).resolve().parents[2]
"""The root of this repository."""

_MARK = "OSIMAGE_IN_NAMESPACE"
_TIMEOUT_S = 1800.0

# The arguments: the root, the number of pairs to bind, the pairs, the command. What is bound to a
# file there is a file here.
_ENTER = """set -eu
root=$1 binds=$2
shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=0755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
while [ "$binds" -gt 0 ]; do
    if [ -d "$1" ]; then mkdir -p "$root$2"; else [ -e "$root$2" ] || : >"$root$2"; fi
    mount --bind "$1" "$root$2"
    shift 2
    binds=$((binds - 1))
done
exec chroot "$root" "$@"
"""


def become_root(arguments: Sequence[str]) -> None:
    """Start this program anew as root of a user namespace, unless it is root already.

    Raises:
        BuildError: the machine does not allow that; the message says what is missing.
    """
    if os.geteuid() == 0:
        return
    if os.environ.get(_MARK):
        raise BuildError("the user namespace gave no root", hint="run the build as root")
    argv = [
        "unshare", "--user", "--map-auto", "--map-root-user", "--mount", "--fork", "--kill-child",
        sys.executable, "-m", "osimage.build", *arguments,
    ]  # fmt: skip
    try:
        probe = run_blocking([*argv[:5], "true"], check=False)
    except Exception as exc:
        raise BuildError(f"cannot make a user namespace: {exc}", hint=_HINT) from exc
    if probe.returncode != 0:
        words = probe.stderr.decode(errors="replace").strip().splitlines()
        raise BuildError(f"cannot make a user namespace: {' '.join(words[-1:])}", hint=_HINT)
    sys.stderr.flush()
    os.execvpe(argv[0], argv, os.environ | {_MARK: "yes"})


_HINT = (
    "run the build as root, or install the package uidmap and give your user a range of ids in "
    "/etc/subuid and /etc/subgid"
)


def environment(**more: str) -> dict[str, str]:
    """Return what a tool that downloads may see: where to download from, beside the usual."""
    names = ("MIRROR", "http_proxy", "https_proxy", "no_proxy", "TMPDIR", "HOME", "PATH")
    prefixes = ("UV_", "PIP_", "SSL_CERT_", "XDG_CACHE_")
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in names or name.startswith(prefixes)
    }
    return SAFE_ENV | passed | more


def run_in(
    root: Path,
    argv: Sequence[str],
    *,
    binds: Mapping[Path, str] | None = None,
    files: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    timeout_s: float = _TIMEOUT_S,
    check: bool = True,
    stdin: bytes = b"",
) -> Completed:
    """Run a command in the root directory `root`, with /proc, /sys and /dev, empty /run and /tmp.

    Args:
        root: A root file system.
        argv: The command, as seen from there.
        binds: Directories of this machine, and where they are seen there.
        files: Files of this machine that are seen there under the same name.
        env: What it sees beside `SAFE_ENV`.
        timeout_s: It is killed after so long.
        check: Raise if it fails.
        stdin: What it reads.

    Raises:
        ProcessError: it failed.
    """
    pairs = [word for item in (binds or {}).items() for word in (str(item[0]), item[1])]
    # A link's target: /etc/resolv.conf is one on many machines.
    pairs += [word for name in files for word in (str(Path(name).resolve()), name)]
    return run_blocking(
        [
            "unshare", "--mount", "--pid", "--fork", "--kill-child",
            "sh", "-c", _ENTER, "enter", str(root), str(len(pairs) // 2), *pairs, *argv,
        ],
        env=SAFE_ENV | {"HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"} | dict(env or {}),
        timeout_s=timeout_s, check=check, stdin=stdin,
    )  # fmt: skip
