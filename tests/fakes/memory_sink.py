"""A download's end in memory."""

from qemu_node.images.http.answer import Validators


class MemorySink:
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.content = bytearray()

    async def begin(
        self, offset_bytes: int, total_bytes: int | None, validators: Validators
    ) -> None:
        del total_bytes, validators
        del self.content[offset_bytes:]

    async def write(self, *chunks: bytes) -> None:
        self.content += b"".join(chunks)
