"""A fresh Debian in a chroot: what a new user's machine has, and nothing else.

Owns making and entering it. Does not own what is done there. Packages and wheels that were
downloaded once are kept in the cache of this machine.
"""

import shutil
from pathlib import Path

from guests import cache, packages

from qemu_node.host.process.command import Completed, run_blocking

_BUILD_TIMEOUT_S = 900.0
_ENTER = """
root=$1 kept=$2; shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs run "$root/run"
mount -t tmpfs -o size=50% tmp "$root/tmp"
mkdir -p "$kept/pip" "$kept/apt" "$root/root/.cache/pip"
mount --bind "$kept/pip" "$root/root/.cache/pip"
mount --bind "$kept/apt" "$root/var/cache/apt/archives"
[ -z "$ALONE" ] || ip link set lo up
exec chroot "$root" "$@"
"""
# Both suites' packages are in one directory: their file names have versions.
_KEEP_PACKAGES = 'APT::Keep-Downloaded-Packages "true";\n'


class FreshDebian:
    """One chroot; it goes with its directory."""

    def __init__(self, root: Path, suite: str) -> None:
        self.root = root
        self.suite = suite

    @classmethod
    def make(cls, suite: str, root: Path) -> "FreshDebian":
        """Unpack Debian `suite` into the new directory `root`, with this checkout in /src.

        Raises:
            MissingPartError: mmdebstrap is not installed.
            ProcessError: it failed, for example because the Debian mirror is out of reach.
        """
        sources = run_blocking(
            [str(packages.SOURCES_SCRIPT), suite], env=packages.environment()
        ).stdout

        def build(target: Path, _scratch: Path) -> None:
            argv = [
                "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=tar",
                "--include=ca-certificates", suite, str(target), "-",
            ]  # fmt: skip
            run_blocking(
                argv, stdin=sources, env=packages.environment(), timeout_s=_BUILD_TIMEOUT_S
            )

        digest = cache.fingerprint([Path(__file__)], sources.decode())
        archive = cache.cached(cache.cache_dir(), f"fresh-{suite}", digest, ".tar", build)
        root.mkdir()
        run_blocking(["tar", "-xf", str(archive), "-C", str(root)], timeout_s=_BUILD_TIMEOUT_S)
        (root / "etc/apt/apt.conf.d/90keep").write_text(_KEEP_PACKAGES)
        # As this machine reaches mirrors and package index: names, and whom it trusts.
        for path in ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
            shutil.copyfile(f"/{path}", root / path)
        unwanted = shutil.ignore_patterns(
            ".git", ".venv", ".tools", ".cache", ".*_cache", "__pycache__", ".hypothesis", "out"
        )
        shutil.copytree(cache.REPO, root / "src", ignore=unwanted, symlinks=True)
        return cls(root, suite)

    def run(self, script: str, *, is_alone: bool, timeout_s: float) -> Completed:
        """Run shell text as root in /src; what it started ends with it.

        Args:
            script: Ends with the first command that fails.
            is_alone: In a network of its own, which has loopback only.
            timeout_s: When it is killed.
        """
        return run_blocking(
            [
                "unshare", "--mount", "--pid", "--fork", "--kill-child",
                *(["--net"] if is_alone else []),
                "sh", "-euc", _ENTER, "enter", str(self.root),
                str(cache.cache_dir() / "fresh-downloads"), "sh", "-exc", f"cd /src\n{script}",
            ],
            env=packages.environment() | {
                "ALONE": "yes" if is_alone else "",
                "HOME": "/root",
                "TMPDIR": "/tmp",
                "LANG": "C.UTF-8",
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND": "noninteractive",
            },
            timeout_s=timeout_s,
            check=False,
        )  # fmt: skip
