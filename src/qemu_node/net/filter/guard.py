"""The table that keeps guests in user mode off this node, in the kernel.

Owns loading, finding and removing it. Does not own its text (`usermode`) nor whether a VM needs it
(`vm.network`). Calls block: use a thread.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from qemu_node.host.process.users import claimed_users, pids_of_users
from qemu_node.net.errors import NftError, TableOwnedError
from qemu_node.net.filter.listing import Rules, rules_of
from qemu_node.net.filter.nft import Nft
from qemu_node.net.filter.usermode import (
    FAMILY,
    parse_resolvers,
    remove_text,
    table_name,
    table_text,
    users_of_table,
)

log = logging.getLogger(__name__)

_RESOLV_CONF = Path("/etc/resolv.conf")
_FLAGS = "owner, persist"


class UserGuard:
    """The restriction of guests whose QEMU runs as one of `uids`, unless `is_open`."""

    def __init__(self, uids: range, *, is_open: bool) -> None:
        self._uids = uids
        self._is_open = is_open
        self._rules: Rules = ()
        """Those of the table, as it was when we loaded it."""

    @property
    def table(self) -> str:
        """Family and name of the table."""
        return f"{FAMILY} {table_name(self._uids)}"

    def ensure(self, nft: Nft) -> None:
        """Make the table what it should be, unless it is.

        Raises:
            NftError: the kernel refused; nothing was changed.
        """
        listing = self._list(nft)
        is_right = (
            listing is None
            if self._is_open
            else listing is not None and rules_of(listing) == self._rules
        )
        if not is_right:
            self.load(nft)

    def load(self, nft: Nft) -> None:
        """Make the table current, or remove it where the operator opened the node.

        A table of another driver with the same users says the same: it is left to that.

        Raises:
            NftError: the kernel refused; nothing was changed.
        """
        is_ours = self._take_over(nft)
        if not self._is_open:
            listing = self._list(nft)
            self._rules = () if listing is None else rules_of(listing)
        elif is_ours:
            nft.run(remove_text(self._uids))

    def remove(self, nft: Nft, own_pids: Collection[int]) -> None:
        """Remove the table, unless it keeps VMs of somebody else from the node.

        Args:
            nft: The library.
            own_pids: Processes that do not need it, whoever they run as.

        Raises:
            NftError: the kernel refused; nothing was changed.
        """
        if self.is_loaded(nft) and pids_of_users(self._uids) <= set(own_pids):
            if self._take_over(nft):
                nft.run(remove_text(self._uids))
                log.info("guard of user mode removed: no VM needs it")
            self._rules = ()

    def remove_abandoned(self, nft: Nft) -> None:
        """Remove the tables of other drivers that were killed and did not come back.

        One is abandoned if nothing runs as one of its users, or is about to: a driver claims a
        VM's user before it loads the table.

        Raises:
            NftError: the kernel refused.
        """
        for name in nft.list_names(FAMILY):
            uids = users_of_table(name)
            if uids is None or uids == self._uids or pids_of_users(uids):
                continue
            if any(uid in uids for uid in claimed_users()):
                continue
            try:
                nft.run(remove_text(uids))
            except TableOwnedError:
                log.debug("table has an owner", extra={"table": name})
            else:
                log.info("table of a driver that is gone removed", extra={"table": name})

    def _take_over(self, nft: Nft) -> bool:
        """Make the table current and ours; False: it is another driver's, and as it was.

        Nobody may remove a table that has the flag `owner` and is not theirs.
        """
        removal = remove_text(self._uids)
        problems: list[NftError] = []
        # The last is for an nft that knows no `owner`, and a table that a newer one made to
        # persist: it may replace that, not change it.
        for first, flags in (("", _FLAGS), ("", ""), (removal, "")):
            try:
                nft.run(first + table_text(self._uids, _resolvers(), flags))
            except TableOwnedError:
                log.info("guard of user mode is another driver's")
                return False
            except NftError as exc:
                problems.append(exc)
            else:
                return True
        raise problems[1]

    def is_loaded(self, nft: Nft) -> bool:
        """Tell whether the table is there."""
        return self._list(nft) is not None

    def _list(self, nft: Nft) -> Mapping[str, Any] | None:
        return nft.list_table(FAMILY, table_name(self._uids))


def _resolvers() -> list[str]:
    """Return the node's name servers; none where there is no /etc/resolv.conf."""
    try:
        text = _RESOLV_CONF.read_text(errors="replace")
    except OSError:
        return []
    return parse_resolvers(text)
