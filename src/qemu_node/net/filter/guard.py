"""The nftables table that keeps guests in user mode from reaching this node.

Owns loading, checking and removing it. Does not own its text (`usermode`) nor whether a VM needs
it (`vm.vmnetwork`). Calls block: use a thread.
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
    """The guard against guests whose QEMU runs as one of `uids`; none if `is_open`."""

    def __init__(self, uids: range, *, is_open: bool) -> None:
        self._uids = uids
        self._is_open = is_open
        self._rules: Rules = ()
        """The table's rules when we loaded it."""

    @property
    def table(self) -> str:
        """The table's family and name."""
        return f"{FAMILY} {table_name(self._uids)}"

    def ensure(self, nft: Nft) -> None:
        """Load or remove the table if it is not as it should be.

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
        """Load the current table; if the operator has opened the node, remove it.

        If another driver with the same users owns the table, it has the same rules and is not
        changed.

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
        """Remove the table, unless VMs of another driver need it.

        Args:
            nft: The library.
            own_pids: Processes of VMs that do not need it.

        Raises:
            NftError: the kernel refused; nothing was changed.
        """
        if self.is_loaded(nft) and pids_of_users(self._uids) <= set(own_pids):
            if self._take_over(nft):
                nft.run(remove_text(self._uids))
                log.info("guard of user mode removed: no VM needs it")
            self._rules = ()

    def remove_abandoned(self, nft: Nft) -> None:
        """Remove the tables of other drivers that were killed and not restarted.

        A table is abandoned if no process runs as one of its users and none of them is claimed: a
        driver claims a VM's user before it loads the table.

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
                log.info("removed the table of a driver that no longer runs", extra={"table": name})

    def _take_over(self, nft: Nft) -> bool:
        """Load the current table and own it; False, and no change, if another driver owns it.

        Only its owner may change a table with the flag `owner`.
        """
        removal = remove_text(self._uids)
        problems: list[NftError] = []
        # The last try is for an nft that does not know `owner`, and a table that a newer nft made
        # persistent: it may replace that table but not change it.
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
        """Tell whether the table is loaded."""
        return self._list(nft) is not None

    def _list(self, nft: Nft) -> Mapping[str, Any] | None:
        return nft.list_table(FAMILY, table_name(self._uids))


def _resolvers() -> list[str]:
    """Return the node's name servers; none if there is no /etc/resolv.conf."""
    try:
        text = _RESOLV_CONF.read_text(errors="replace")
    except OSError:
        return []
    return parse_resolvers(text)
