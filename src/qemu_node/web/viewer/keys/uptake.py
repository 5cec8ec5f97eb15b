"""Whether the guest has read what was typed: by the keyboard's interrupts, where QEMU counts them.

Owns waiting for that. An emulated guest's CPU may get no time for longer than it takes to fill its
keyboard; then the next keys would be lost without a word. Under KVM the interrupts are not counted,
and a CPU waits for microseconds: there the pace alone has to do.
"""

import asyncio

from qemu_node.qmp import commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.web.http.problems import Problem

POLL_S = 0.002
FIRST_S = 0.5
"""How long the first interrupt may take; without it they are taken to be not counted."""
STUCK_S = 10.0
"""How long a guest may read nothing of its keyboard."""


class Uptake:
    """Of one paste."""

    def __init__(self) -> None:
        self._count: int | None = None
        self._is_counted: bool | None = None
        """None: not known yet."""

    async def begin(self, qmp: QmpConnection) -> None:
        """Look at the count before something is typed.

        Raises:
            QmpError: QEMU does not answer.
        """
        if self._is_counted is not False:
            self._count = await commands.count_keyboard_interrupts(qmp)

    async def wait(self, qmp: QmpConnection, keys: int) -> None:
        """Return when the guest has read so many keys, each of one byte at least.

        Raises:
            Problem: it reads none any more.
            QmpError: QEMU does not answer.
        """
        if self._count is None or self._is_counted is False:
            return
        wanted = self._count + keys
        limit_s = FIRST_S if self._is_counted is None else STUCK_S
        try:
            async with asyncio.timeout(limit_s):
                # QEMU tells nobody when the guest reads.
                while (now := await commands.count_keyboard_interrupts(qmp) or 0) < wanted:  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            if self._is_counted:
                raise Problem(
                    504,
                    "guest-does-not-read",
                    f"the guest does not read its keyboard for {limit_s:g} s",
                    hint="it hangs, or gets no time from its node",
                ) from None
            self._is_counted = False
            return
        self._count, self._is_counted = now, True
