"""The Debian package of this checkout, built by scripts/deb.sh, and a newer one.

Owns calling it. Does not own where the package is kept: the script's cache.
"""

import os
import re
import tempfile
from pathlib import Path

from guests import cache, packages

from qemu_node.host.process.command import run_blocking

_DEBIAN = {"bookworm": "12", "trixie": "13"}
# The first build makes a chroot and downloads the Python packages.
_BUILD_TIMEOUT_S = 1200.0


def build_package(
    suite: str, *options: str, checkout: Path = cache.REPO, umask: str = "022"
) -> Path:
    """Return the package for Debian `suite`.

    Args:
        suite: `bookworm` or `trixie`.
        options: Of scripts/deb.sh.
        checkout: Whose sources.
        umask: Under which the script runs.

    Raises:
        ProcessError: it cannot be built; the message ends with what the script said.
    """
    kept = os.environ.get("XDG_CACHE_HOME")
    environment = packages.environment() | {"DEBIAN": _DEBIAN[suite]}
    done = run_blocking(
        ["sh", "-c", 'umask "$1"; shift; exec "$@"', "build", umask,
         str(checkout / "scripts" / "deb.sh"), *options],
        env=environment | ({"XDG_CACHE_HOME": kept} if kept else {}),
        timeout_s=_BUILD_TIMEOUT_S,
    )  # fmt: skip
    return Path(done.stdout.decode().strip())


def repack(package: Path, target: Path, version: str) -> None:
    """Write a package with the content of `package` and a newer version to `target`.

    Raises:
        ProcessError: dpkg-deb failed.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        tree = Path(scratch) / "tree"
        run_blocking(["dpkg-deb", "--raw-extract", str(package), str(tree)], timeout_s=120)
        control = tree / "DEBIAN/control"
        text = re.sub(
            "^Version: .*", f"Version: {version}", control.read_text(), flags=re.MULTILINE
        )
        control.write_text(text)
        # gzip is quick, and every dpkg reads it.
        build = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build"]
        run_blocking([*build, str(tree), str(target)], timeout_s=120)
