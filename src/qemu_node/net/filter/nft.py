"""libnftables in this process: transactions as text, listings as JSON.

Owns the library's context, which is the owner of a table with the flag `owner`, and the errors.
Does not own what is loaded (`ruleset`, `usermode`).

In this process, because a transaction takes 3 ms here and 100 ms as `nft -f` (Linux 6.12, nft
1.1.3, under TCG), and because a table's owner is a netlink socket that stays open. Calls block: use
a thread.
"""

import ctypes
import json
import os
import threading
from collections.abc import Mapping
from typing import Any

from qemu_node.net.errors import NftError, NftMissingError, TableOwnedError

_LIBRARY = "libnftables.so.1"
_OUTPUT_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON, nftables/libnftables.h
_MESSAGE_MAX_CHARS = 300


class Nft:
    """A context of libnftables, for one thread at a time. It owns tables until it is closed."""

    def __init__(self) -> None:
        """Load the library.

        Raises:
            NftMissingError: it is not installed.
        """
        self._lock = threading.Lock()
        try:
            self._lib = _declare(ctypes.CDLL(_LIBRARY))
        except OSError as exc:
            raise NftMissingError(
                f"cannot filter what guests send: {_LIBRARY} is missing",
                hint="apt install libnftables1",
            ) from exc
        # The library opens the netlink socket here and keeps it open.
        self._context: int | None = self._lib.nft_ctx_new(0)
        if self._context is None:
            raise NftMissingError("cannot filter what guests send: libnftables has no context")
        self._lib.nft_ctx_buffer_output(self._context)
        self._lib.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        """Free the context. Its tables stay if they have the flag `persist`."""
        with self._lock:
            if self._context is not None:
                self._lib.nft_ctx_free(self._context)
                self._context = None

    def run(self, text: str) -> None:
        """Run the commands in `text` in one transaction: all or none.

        Raises:
            TableOwnedError: a table in it belongs to another process.
            NftError: the library or the kernel refused.
        """
        self._run(text, 0)

    def list_table(self, family: str, name: str) -> Mapping[str, Any] | None:
        """Return what `nft -j list table` prints; None if there is no such table.

        Raises:
            NftError: the library or the kernel refused.
        """
        try:
            output = self._run(f"list table {family} {name}\n", _OUTPUT_JSON)
        except NftError as exc:
            if "No such file or directory" in str(exc):
                return None
            raise
        listing: Mapping[str, Any] = json.loads(output)
        return listing

    def list_names(self, family: str) -> list[str]:
        """Return the names of all tables of `family`.

        Raises:
            NftError: the library or the kernel refused.
        """
        listing = json.loads(self._run(f"list tables {family}\n", _OUTPUT_JSON))
        return [item["table"]["name"] for item in listing["nftables"] if "table" in item]

    def _run(self, text: str, output_flags: int) -> str:
        with self._lock:
            if self._context is None:
                raise NftError("cannot filter what guests send: already closed")
            self._lib.nft_ctx_output_set_flags(self._context, output_flags)
            code = self._lib.nft_run_cmd_from_buffer(self._context, text.encode())
            # Both buffers belong to the library and change with the next command.
            output: bytes = self._lib.nft_ctx_get_output_buffer(self._context)
            errors: bytes = self._lib.nft_ctx_get_error_buffer(self._context)
        if code:
            raise _error(errors.decode(errors="replace"))
        return output.decode(errors="replace")


def _declare(lib: ctypes.CDLL) -> ctypes.CDLL:
    """Return `lib` with the types of the functions used here (man 3 libnftables)."""
    context = ctypes.c_void_p
    for name, result, arguments in (
        ("nft_ctx_new", ctypes.c_void_p, [ctypes.c_uint32]),
        ("nft_ctx_free", None, [context]),
        ("nft_ctx_buffer_output", ctypes.c_int, [context]),
        ("nft_ctx_buffer_error", ctypes.c_int, [context]),
        ("nft_ctx_output_set_flags", None, [context, ctypes.c_uint]),
        ("nft_run_cmd_from_buffer", ctypes.c_int, [context, ctypes.c_char_p]),
        ("nft_ctx_get_output_buffer", ctypes.c_char_p, [context]),
        ("nft_ctx_get_error_buffer", ctypes.c_char_p, [context]),
    ):
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    return lib


def _error(words: str) -> NftError:
    """Return the error for the library's message; the lines after the first show the position."""
    first = words.strip().partition("\n")[0].removeprefix("Error: ")[:_MESSAGE_MAX_CHARS]
    if "Operation not permitted" in first and os.geteuid() == 0:
        return TableOwnedError(
            "the network filter belongs to another process",
            hint="another driver manages this node's VM network; one at a time can",
        )
    return NftError(f"nftables refused: {first or 'without a reason'}")
