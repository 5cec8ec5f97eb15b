"""Our own Debian package in the root.

Owns how it is had and installed. Does not own how it is built (`scripts/deb.sh`).
"""

from pathlib import Path

from osimage.build.namespace import REPO, environment, run_in
from qemu_node.host.process.command import run_blocking

PACKAGE = "qemu-node"
"""Its name."""

_SCRIPT = REPO / "scripts" / "deb.sh"
_TIMEOUT_S = 1800.0


def make_package() -> Path:
    """Return the path of our package, built unless the sources' one is kept already.

    Raises:
        ProcessError: it cannot be built.
    """
    done = run_blocking([str(_SCRIPT)], env=environment(DEBIAN="13"), timeout_s=_TIMEOUT_S)
    return Path(done.stdout.decode().strip().splitlines()[-1])


def install_package(package: Path, root: Path) -> None:
    """Install a package into `root`, which has what it depends on.

    Raises:
        ProcessError: it depends on a package that the root does not have.
    """
    run_in(
        root,
        # The base has no documentation; errors and pages of ours name our pages and examples.
        ["dpkg", "--path-include=/usr/share/doc/qemu-node/*", "--install",
         f"/run/package/{package.name}"],
        binds={package.parent: "/run/package"},
    )  # fmt: skip
