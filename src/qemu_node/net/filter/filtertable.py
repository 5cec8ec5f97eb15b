"""The filter table in the kernel: loading it, its elements, its counters.

Owns loading the ruleset without leaving running guests unfiltered. Does not own its text
(`ruleset`) nor which ports there are (`manager`). Calls block: use a thread.
"""

import logging
from collections.abc import Iterable

from qemu_node.net.errors import NftError, TableOwnedError
from qemu_node.net.filter.elements import (
    Element,
    TableContent,
    add_text,
    delete_text,
    parse_listing,
)
from qemu_node.net.filter.listing import Rules
from qemu_node.net.filter.nft import Nft
from qemu_node.net.filter.ruleset import FAMILY, TABLE, table_text

log = logging.getLogger(__name__)

# `owner`: no other process can change the table, and `flush ruleset` skips it. `persist`: it stays
# when we end, and the next driver takes it over; with `owner` alone, the filter would be gone
# whenever the driver restarts. Both need Linux 6.10 and nft 1.1.
_FLAGS = "owner, persist"


class FilterTable:
    """The filter table for this node's guests."""

    def __init__(self, nft: Nft) -> None:
        self._nft = nft
        self._rules: Rules = ()

    def load(self) -> None:
        """Load the current rules and own the table. Elements stay, with their counters.

        Raises:
            TableOwnedError: another driver owns it; nothing was changed.
            NftError: the kernel refused; nothing was changed.
        """
        self._load()
        content = self.read()
        self._rules = () if content is None else content.rules

    def is_intact(self, content: TableContent | None) -> bool:
        """Tell whether `content`, as read, has the rules that we loaded."""
        return content is not None and content.rules == self._rules

    def _load(self) -> None:
        for flags in (_FLAGS, ""):
            try:
                self._nft.run(table_text(flags))
            except TableOwnedError:
                raise
            except NftError as exc:
                log.debug("table not loaded", extra={"flags": flags, "reason": str(exc)})
            else:
                return
        self._replace()

    def _replace(self) -> None:
        """Replace a table whose sets are of another version; its elements are lost.

        Until the next reconcile adds them again, no frame of a guest passes: the table fails
        closed.
        """
        problem: NftError | None = None
        # A table without an owner may be deleted, but cannot get one. A table whose owner has
        # ended must become ours before it may be deleted; an nft that does not know `owner` can do
        # neither.
        removal = f"delete table {FAMILY} {TABLE}\n"
        for flags, takeover in (
            (_FLAGS, f"add table {FAMILY} {TABLE} {{ flags {_FLAGS}; }}\n"),
            (_FLAGS, f"add table {FAMILY} {TABLE}\n"),
            ("", f"add table {FAMILY} {TABLE}\n"),
            ("", ""),
        ):
            try:
                self._nft.run(takeover + removal + table_text(flags))
            except NftError as exc:
                problem = exc
            else:
                log.warning("network filter of another version was replaced")
                return
        assert problem is not None
        raise problem

    def add(self, elements: Iterable[Element]) -> None:
        """Add elements, all or none. Existing ones are not changed."""
        self._nft.run(add_text(elements))

    def remove(self, elements: Iterable[Element]) -> None:
        """Remove elements, whether they exist or not."""
        removed = tuple(elements)
        try:
            self._nft.run(delete_text(removed, are_there=True))
        except TableOwnedError:
            raise
        except NftError:
            self._nft.run(delete_text(removed))

    def change(self, added: Iterable[Element], removed: Iterable[Element]) -> None:
        """Remove and add elements in one transaction.

        Remove first: a wrong element of the map has the same key as the right one.
        """
        text = delete_text(removed) + add_text(added)
        if text:
            self._nft.run(text)

    def read(self) -> TableContent | None:
        """Return the table's content; None if it was removed."""
        listing = self._nft.list_table(FAMILY, TABLE)
        return None if listing is None else parse_listing(listing)
