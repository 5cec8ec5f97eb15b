"""What the driver counts of its node, and writing it down for others: node.json.

Owns when that is written: soon after something was counted, and once a minute with the image cache.
Does not own the file (`record.nodefile`). A report that fails is tried again, and never keeps a VM
from its start or end.
"""

import time
from collections.abc import Callable, Sequence

from qemu_node.config.node import Paths
from qemu_node.errors import NodeError
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.store.keptimage import KeptImage, file_name
from qemu_node.version import VERSION
from qemu_node.vm.record.nodefile import CacheFacts, Counts, ImageFacts, NodeFile
from qemu_node.vm.record.outcome import EndKind

WRITE_S = 60.0
"""How old node.json is at most while a driver lives."""
IMAGES_MAX = 200
"""So many are listed."""
_PROBLEMS_MAX = 20


class NodeReport:
    """Of one driver."""

    def __init__(
        self,
        paths: Paths,
        keeper: ImageKeeper,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = NodeFile(paths)
        self._keeper = keeper
        self._clock = clock
        self._steady = steady
        self._counted = Counts()
        self._written_at: float | None = None

    def count_start(self, took_s: float) -> None:
        """Count a VM that runs."""
        self._count(Counts(started=1, start_s=took_s))

    def count_failure(self, step: str) -> None:
        """Count a start that has failed at `step`."""
        self._count(Counts(failed={step: 1}))

    def count_cancelled(self) -> None:
        """Count a start that was given up."""
        self._count(Counts(cancelled=1))

    def count_end(self, kind: EndKind) -> None:
        """Count a VM that has ended."""
        self._count(Counts(ended={kind.value: 1}))

    def _count(self, counts: Counts) -> None:
        self._counted = self._counted.plus(counts)

    async def write(self, problems: Sequence[str]) -> None:
        """Write what is due, if anything is.

        Raises:
            NodeError: it was not written; the counts are kept for the next time.
        """
        now = self._steady()
        is_whole = self._written_at is None or now - self._written_at >= WRITE_S
        counted, self._counted = self._counted, Counts()
        if not is_whole and counted == Counts():
            return
        try:
            await to_the_end(self._write, counted, tuple(problems[:_PROBLEMS_MAX]), is_whole)
        except Exception:
            # A cancellation has waited for the end of the write.
            self._counted = counted.plus(self._counted)
            raise
        if is_whole:
            self._written_at = now

    def _write(self, counted: Counts, problems: tuple[str, ...], is_whole: bool) -> None:  # noqa: FBT001 - for a thread
        cache = None
        if is_whole:
            try:
                cache = cache_facts(self._keeper.images())
            except (NodeError, OSError) as exc:
                problems = (*problems, f"the images cannot be read: {exc}")
        self._file.add(
            counted,
            now_s=self._clock(),
            driver_version=VERSION,
            problems=problems,
            cache=cache,
        )


def cache_facts(images: Sequence[KeptImage]) -> CacheFacts:
    """Return what others are told of the image cache: pure."""
    used = [image for image in images if image.is_in_use]
    return CacheFacts(
        count=len(images),
        bytes=sum(image.allocated_bytes for image in images),
        in_use=len(used),
        in_use_bytes=sum(image.allocated_bytes for image in used),
        images=tuple(
            ImageFacts(
                name=file_name(image.label),
                digest=image.digest,
                size_bytes=image.blob.size_bytes,
                vms=len(image.users),
                is_pinned=image.is_pinned,
                is_outdated=image.is_outdated,
            )
            for image in images[:IMAGES_MAX]
        ),
    )
