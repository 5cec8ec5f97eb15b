"""Limits against guessing: pure but for the clock.

Owns how many wrong attempts are taken, from one address and from all. Does not own what is wrong.
An address is an IPv4 address or the first 64 bits of an IPv6 one, which one customer has.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from qemu_node.web.http.listener.openers import network_of

OF_ADDRESS_MAX = 10
OF_ALL_MAX = 200
WINDOW_S = 60.0
_ADDRESSES_MAX = 4096


class Attempts:
    """Wrong attempts of the last minute. A right one is not counted, and takes nothing back."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()
        self._all: list[float] = []

    def wait_s(self, address: str) -> float:
        """Return how long this address has to wait for its next attempt; 0: it may."""
        now = self._clock()
        self._all = [at for at in self._all if now - at < WINDOW_S]
        own = [at for at in self._wrong.get(network_of(address), ()) if now - at < WINDOW_S]
        waits = [0.0]
        if len(own) >= OF_ADDRESS_MAX:
            waits.append(own[-OF_ADDRESS_MAX] + WINDOW_S - now)
        if len(self._all) >= OF_ALL_MAX:
            waits.append(self._all[-OF_ALL_MAX] + WINDOW_S - now)
        return max(waits)

    def note_wrong(self, address: str) -> None:
        """Count a wrong attempt."""
        now = self._clock()
        network = network_of(address)
        own = [at for at in self._wrong.pop(network, []) if now - at < WINDOW_S]
        self._wrong[network] = [*own, now][-OF_ADDRESS_MAX:]
        while len(self._wrong) > _ADDRESSES_MAX:
            self._wrong.popitem(last=False)
        self._all = [*self._all, now][-OF_ALL_MAX:]
