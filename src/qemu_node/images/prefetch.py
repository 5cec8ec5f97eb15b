"""Images that the node downloads before any job asks for them: `images.prefetch`.

Owns when each is brought up to date, and the log when that fails. Does not own the download
(`cache`) nor that these images are kept (`eviction`).
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence

from qemu_node.errors import ConfigError, JobError, NodeError
from qemu_node.host.concurrency.loops import Troubles, repeat
from qemu_node.images.download.pull import Pulled
from qemu_node.images.source.credentials import CredentialStore
from qemu_node.images.source.name import PathSource, parse_source
from qemu_node.images.source.remote import find_remote

log = logging.getLogger(__name__)

_INTERVAL_MIN_S = 60.0


PullImage = Callable[[str], Awaitable[Pulled]]
"""Brings the image of a source into the cache and returns it, as `ImageCache.pull` does."""


def prefetched_keys(sources: Sequence[str], credentials: CredentialStore) -> frozenset[str]:
    """Return the cache's keys of `sources` without the credentials of any job. Pure.

    Keys, not URLs: a job that has a password of its own in the same URL gets another image, which
    is not kept.

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
    """Pulls some sources, each at once and then at an interval."""

    def __init__(self, pull: PullImage, sources: Sequence[str], interval_s: float) -> None:
        """Pull `sources` with `pull`, each every `interval_s`, at most once a minute."""
        self._pull = pull
        self._sources = tuple(dict.fromkeys(sources))
        self._interval_s = max(interval_s, _INTERVAL_MIN_S)
        self._said: dict[str, str | None] = {}
        """The last problem of each source."""

    async def run(self, troubles: Troubles) -> None:
        """Keep the images up to date until cancelled; a source that is down does not delay others.

        Args:
            troubles: Records programming errors.
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
            # Logged once: a source may be down for hours.
            log.warning("image not prefetched", extra={"error": problem})
        elif problem is None and said is not None:
            log.info("image prefetched again", extra={"source": str(parse_source(source))})
        self._said[source] = problem

    async def problem_of(self, source: str) -> str | None:
        """Pull `source` and return why its image is missing or old; None if it is up to date."""
        try:
            return (await self._pull(source)).note
        except NodeError as exc:
            return exc.explain()
