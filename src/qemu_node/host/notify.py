"""Telling systemd how this service is (man 3 sd_notify): ready, alive, stopping, a line of status.

Owns the datagram. Does nothing where no systemd asked for it.
"""

import asyncio
import contextlib
import os
import socket
from typing import NoReturn

_NEVER_S = 3600.0


def notify(**state: str | int) -> None:
    """Send `state`, for example `READY=1`. Never fails and never waits: nobody may read it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    lines = "\n".join(f"{name}={' '.join(str(value).split())}" for name, value in state.items())
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sock:
        sock.sendto(lines.encode(), address)


def watchdog_s() -> float | None:
    """Return how often systemd wants to hear that we are alive; None: never."""
    pid = os.environ.get("WATCHDOG_PID")
    if pid and pid != str(os.getpid()):
        return None
    try:
        return int(os.environ.get("WATCHDOG_USEC", "")) / 1_000_000 or None
    except ValueError:
        return None


async def keep_alive() -> NoReturn:
    """Tell systemd that the event loop runs, in half its time, until cancelled."""
    interval_s = watchdog_s()
    while True:
        if interval_s is not None:
            notify(WATCHDOG=1)
        await asyncio.sleep(_NEVER_S if interval_s is None else interval_s / 2)
