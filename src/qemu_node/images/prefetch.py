"""Images that the node keeps in its cache before any job asks: `images.prefetch`.

Owns when each is brought up to date and what is said when that fails. Does not own the download
(`cache`) nor that they stay (`eviction`).
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Sequence
from typing import Protocol

from qemu_node.errors import ConfigError, JobError, NodeError
from qemu_node.host.concurrency.loops import Troubles, repeat
from qemu_node.images.download.pull import Pulled
from qemu_node.images.source.credentials import CredentialStore
from qemu_node.images.source.name import PathSource, parse_source
from qemu_node.images.source.remote import find_remote

log = logging.getLogger(__name__)

_INTERVAL_MIN_S = 60.0


class PullImage(Protocol):
    """Brings the image of a source into the cache, as `ImageCache.pull` does."""

    def __call__(self, source: str, /) -> Awaitable[Pulled]:
        """Return what is in the cache once it is up to date."""


def prefetched_keys(sources: Sequence[str], credentials: CredentialStore) -> frozenset[str]:
    """Return what the cache files `sources` under, had as no job has them. Pure.

    Not how they are shown: a job that gives a password of its own for the same URL has another
    image, which nobody keeps.

    Raises:
        ConfigError: one of them cannot be fetched.
    """
    keys = set()
    for text in sources:
        try:
            source = parse_source(text)
        except JobError as exc:
            raise ConfigError(f"images.prefetch: {exc}", hint=exc.hint) from exc
        if isinstance(source, PathSource):
            raise ConfigError(f"images.prefetch: {text} is a path; only a URL can be fetched")
        keys.add(find_remote(source, credentials, None).key)
    return frozenset(keys)


class Prefetcher:
    """Pulls each of some sources at once and from then on at an interval."""

    def __init__(self, pull: PullImage, sources: Sequence[str], interval_s: float) -> None:
        """Pull `sources` through `pull`, each every `interval_s` or every minute."""
        self._pull = pull
        self._sources = tuple(dict.fromkeys(sources))
        self._interval_s = max(interval_s, _INTERVAL_MIN_S)
        self._said: dict[str, str | None] = {}
        """The last problem of each source."""

    async def run(self, troubles: Troubles) -> None:
        """Keep the images up to date until cancelled; one that is down does not delay the others.

        Args:
            troubles: Where faults of ours are noted.
        """
        async with asyncio.TaskGroup() as group:
            for source in self._sources:
                name = f"prefetching {parse_source(source)}"
                refresh = functools.partial(self._refresh, source)
                group.create_task(
                    repeat(refresh, name=name, interval_s=self._interval_s, troubles=troubles)
                )

    async def _refresh(self, source: str) -> None:
        """Bring one image up to date, and log why it is not."""
        problem, said = await self.problem_of(source), self._said.get(source)
        if problem != said and problem is not None:
            # Once: a source that is down stays so for hours.
            log.warning("image not prefetched", extra={"error": problem})
        elif problem is None and said is not None:
            log.info("image prefetched again", extra={"source": str(parse_source(source))})
        self._said[source] = problem

    async def problem_of(self, source: str) -> str | None:
        """Pull `source` and return why its image is missing or old; None if it is neither."""
        try:
            return (await self._pull(source)).note
        except NodeError as exc:
            return exc.explain()
