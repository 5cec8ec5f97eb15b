"""Debian packages as files: extracted without being installed, or installed into a new root.

Owns how packages are had. Does not own what becomes of them.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from guests.cache import REPO

from qemu_node.host.process.command import SAFE_ENV, run_blocking

SUITE = "trixie"
SOURCES_SCRIPT = REPO / "scripts" / "debian-sources.sh"

_TIMEOUT_S = 900.0


def source_lines() -> bytes:
    """Return apt source lines for the suite, from the mirrors this machine uses."""
    return run_blocking([str(SOURCES_SCRIPT), SUITE], env=environment()).stdout


def extract(names: Sequence[str], root: Path) -> None:
    """Unpack the packages `names` and all they depend on into `root`; no maintainer script runs."""
    _mmdebstrap(["--variant=extract", f"--include={','.join(names)}"], root)


def install(names: Sequence[str], root: Path) -> None:
    """Install the packages `names` and their dependencies into the new, minimal Debian `root`."""
    quiet = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    _mmdebstrap(
        [
            "--mode=root", "--variant=minbase", f"--include={','.join(names)}",
            "--aptopt=APT::Install-Recommends \"false\"", *quiet,
        ],
        root,
    )  # fmt: skip


def _mmdebstrap(options: Sequence[str], root: Path) -> None:
    """Run mmdebstrap for the suite."""
    argv = ["mmdebstrap", "--quiet", *options, SUITE, str(root), "-"]
    run_blocking(argv, stdin=source_lines(), env=environment(), timeout_s=_TIMEOUT_S)


def environment() -> dict[str, str]:
    """Return what a tool that downloads may see: where to download from, beside the usual."""
    names = ("MIRROR", "http_proxy", "https_proxy", "no_proxy", "TMPDIR", "HOME", "PATH")
    prefixes = ("UV_", "PIP_", "SSL_CERT_")
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in names or name.startswith(prefixes)
    }
    return SAFE_ENV | passed
