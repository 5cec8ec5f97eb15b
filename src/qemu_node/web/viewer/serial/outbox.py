"""What waits for one viewer: bytes of the guest, and notices.

Owns the bound. A viewer that does not keep up is cut: the others and the guest wait for nobody.
"""

from collections.abc import AsyncIterator

from qemu_node.host.concurrency.flag import Flag
from qemu_node.units import KIB, MIB
from qemu_node.web.access.session.websocket import SLOW

OUTBOX_BYTES = 1 * MIB
_PIECE_BYTES = 64 * KIB


class Outbox:
    """Of one viewer."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._notices: dict[str, str] = {}
        self._changed = Flag()
        self.end: tuple[int, str] | None = None
        """Close code and reason, once nothing more comes."""
        self.ended = Flag()
        """Set when nothing more comes."""
        self.cut = Flag()
        """Set when the end does not wait for what is here to be sent."""

    def put(self, data: bytes) -> None:
        """Add bytes of the guest."""
        if self.end is not None:
            return
        if len(self._data) + len(data) > OUTBOX_BYTES:
            self._data.clear()
            self.close(SLOW, "the viewer does not read: 1 MiB waited for it")
            self.cut.set()
            return
        self._data += data
        self._changed.set()

    def tell(self, kind: str, notice: str) -> None:
        """Add a notice; it replaces one of the same kind that is not sent yet."""
        if self.end is None:
            self._notices[kind] = notice
            self._changed.set()

    def close(self, code: int, reason: str) -> None:
        """End it after what is here."""
        if self.end is None:
            self.end = (code, reason)
            self.ended.set()
            self._changed.set()

    async def frames(self) -> AsyncIterator[bytes | str]:
        """Yield what is to be sent, bytes in order, until the end."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            notices, self._notices = self._notices, {}
            for notice in notices.values():
                yield notice
            if self._data:
                piece = bytes(self._data[:_PIECE_BYTES])
                del self._data[:_PIECE_BYTES]
                # Whatever comes while it is sent is found without a wait.
                self._changed.set()
                yield piece
            elif self.end is not None and not self._notices:
                return
