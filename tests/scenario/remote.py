"""Commands on a machine over ssh, as root with a key."""

import contextlib
import time
from pathlib import Path

from scenario.machine import Machine

from qemu_node.host.process.command import SAFE_ENV, Completed, ProcessError, run_blocking

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_PAUSE_S = 5
"""A login takes an emulated machine a second or two, which its boot lacks."""


def make_key(path: Path) -> str:
    """Make a private key, and return what lets its owner in."""
    run_blocking(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "admin", "-f", str(path)])
    return path.with_suffix(".pub").read_text().strip()


class Remote:
    """A way into a machine that was installed with the public key of `key`."""

    def __init__(self, machine: Machine, key: Path) -> None:
        self._machine = machine
        # Each boot of an uninstalled machine has another host key.
        # fmt: off
        self._options = [
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15",
            "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=20", "-i", str(key),
        ]
        # fmt: on

    def run(self, command: str, *, timeout_s: float = 120) -> str:
        """Return what a shell command printed.

        Raises:
            ProcessError: it failed, or the machine cannot be reached.
        """
        return self.call(command, timeout_s=timeout_s).stdout.decode(errors="replace")

    def call(self, command: str, *, timeout_s: float = 120) -> Completed:
        """As `run`, with all that is known of its end."""
        target = ["-p", str(self._machine.ssh_port), "root@127.0.0.1", command]
        return run_blocking(["ssh", *self._options, *target], timeout_s=timeout_s, env=SAFE_ENV)

    def put(self, source: Path, destination: str, *, timeout_s: float = 300) -> None:
        """Copy a file to the machine."""
        target = ["-P", str(self._machine.ssh_port), str(source), f"root@127.0.0.1:{destination}"]
        run_blocking(["scp", *self._options, *target], timeout_s=timeout_s, env=SAFE_ENV)

    def wait(self, *, timeout_s: float) -> None:
        """Return when the machine can be reached."""
        self.until("true", timeout_s=timeout_s)

    def wait_for_boot(self, *, timeout_s: float) -> None:
        """Return when all that a boot starts has been started, or has failed."""
        self.until(
            "systemctl is-system-running | grep -qE '^(running|degraded)$'", timeout_s=timeout_s
        )

    def restart(self, *, timeout_s: float) -> None:
        """Restart the machine, and return when it can be reached again."""
        boot = self.run(f"cat {_BOOT_ID}").strip()
        # The connection may end before the command does.
        with contextlib.suppress(ProcessError):
            self.run("systemctl reboot")
        self.until(f"! grep -q {boot} {_BOOT_ID}", timeout_s=timeout_s)

    def until(self, command: str, *, timeout_s: float) -> str:
        """Return what `command` printed when it first succeeded.

        Raises:
            AssertionError: it did not succeed in time; the message has its last words.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.run(command, timeout_s=60)
            except ProcessError as exc:
                if time.monotonic() > deadline:
                    console = self._machine.console.text[-3000:]
                    raise AssertionError(f"{command!r} never succeeded: {exc}\n{console}") from exc
            time.sleep(_PAUSE_S)
