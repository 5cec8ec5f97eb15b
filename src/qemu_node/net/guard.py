"""The table that keeps guests in user mode off this node, in the kernel.

Owns loading and removing it. Does not own its text (`usermode`). Calls block: use a thread.
"""

import logging
from pathlib import Path

from qemu_node.net.errors import NftError, TableOwnedError
from qemu_node.net.nft import Nft
from qemu_node.net.usermode import parse_resolvers, remove_text, table_name, table_text

log = logging.getLogger(__name__)

_RESOLV_CONF = Path("/etc/resolv.conf")
_FLAGS = "owner, persist"


class UserGuard:
    """The restriction of guests whose QEMU runs as one of `uids`, unless `is_open`."""

    def __init__(self, uids: range, *, is_open: bool) -> None:
        self._uids = uids
        self._is_open = is_open

    def load(self, nft: Nft) -> None:
        """Make the table current, or remove it where the operator opened the node.

        A table of another driver with the same users says the same: it is left to that.

        Raises:
            NftError: the kernel refused; nothing was changed.
        """
        resolvers = _resolvers()
        for flags in (_FLAGS, ""):
            try:
                nft.run(table_text(self._uids, resolvers, flags))
                break
            except TableOwnedError:
                log.info("guard of user mode is another driver's")
                return
            except NftError:
                if not flags:
                    raise
        if self._is_open:
            # Taken over first: nobody may remove a table that is owned.
            nft.run(remove_text(self._uids))

    def is_loaded(self, nft: Nft) -> bool:
        """Tell whether the table is there."""
        return nft.list_table("inet", table_name(self._uids)) is not None


def _resolvers() -> list[str]:
    """Return the node's name servers; none where there is no /etc/resolv.conf."""
    try:
        text = _RESOLV_CONF.read_text(errors="replace")
    except OSError:
        return []
    return parse_resolvers(text)
