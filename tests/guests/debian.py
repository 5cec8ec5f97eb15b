"""The Debian guest of the demo: Debian 13 with cloud-init, sshd and the guest agent."""

import os
from pathlib import Path

from guests import cache, packages

from qemu_node.host.process.command import run_blocking

BUILD_TIMEOUT_S = 1200.0


def build() -> Path:
    """Return the qcow2 image, built unless it is kept already.

    Raises:
        ProcessError: this machine cannot build it.
    """
    argv = [str(cache.REPO / "examples" / "guest-image" / "build")]
    environment = packages.environment()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        environment["XDG_CACHE_HOME"] = xdg
    done = run_blocking(argv, env=environment, timeout_s=BUILD_TIMEOUT_S)
    return Path(done.stdout.decode().strip())
