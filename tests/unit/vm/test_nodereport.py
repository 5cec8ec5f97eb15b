from pathlib import Path

import pytest
from fakes.stored_images import put

from qemu_node.config.images import ImagesConfig
from qemu_node.config.node import Paths
from qemu_node.errors import HostError
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.store.store import ImageStore
from qemu_node.vm.nodereport import WRITE_S, NodeReport
from qemu_node.vm.record.nodefile import NodeFacts, node_file, read_node
from qemu_node.vm.record.outcome import EndKind


class Reported:
    """A report whose clock stands."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(run=str(root / "r"), data=str(root / "d"))
        self.now = 0.0
        keeper = ImageKeeper(self.paths.images_dir, self.paths.vm_data_dir, ImagesConfig())
        self.report = NodeReport(
            self.paths, keeper, clock=lambda: 1000 + self.now, steady=lambda: self.now
        )

    async def written(self) -> NodeFacts | None:
        await self.report.write(["the bridge br0 is missing"])
        return read_node(self.paths)


@pytest.fixture
def node(tmp_path: Path) -> Reported:
    return Reported(tmp_path)


async def test_starts_ends_and_failures_are_written_down(node: Reported) -> None:
    node.report.count_start(0.25)
    node.report.count_start(0.5)
    node.report.count_failure("check")
    node.report.count_failure("image")
    node.report.count_cancelled()
    node.report.count_end(EndKind.PANICKED)
    facts = await node.written()
    assert facts is not None
    assert (facts.counts.started, facts.counts.start_s, facts.counts.cancelled) == (2, 0.75, 1)
    assert facts.counts.failed == {"check": 1, "image": 1}
    assert facts.counts.ended == {"panicked": 1}
    assert facts.problems == ("the bridge br0 is missing",)


async def test_images_are_looked_at_once_a_minute_and_counts_written_at_once(
    node: Reported,
) -> None:
    store = ImageStore(node.paths.images_dir)
    store.prepare()
    put(store, url="https://h/a/debian.qcow2")
    facts = await node.written()
    assert facts is not None
    assert facts.cache is not None
    assert (facts.cache.count, facts.cache.in_use) == (1, 0)
    assert [image.name for image in facts.cache.images] == ["debian.qcow2"]
    assert facts.cache.bytes > 0

    put(store, "fedcba9876543210", b"y" * 512)
    node.now = WRITE_S / 2
    node.report.count_start(1.0)
    facts = await node.written()
    assert facts is not None
    assert facts.cache is not None
    assert (facts.counts.started, facts.cache.count, facts.cache_at) == (1, 1, 1000)
    assert facts.written_at == 1000 + WRITE_S / 2

    node.now = WRITE_S
    facts = await node.written()
    assert facts is not None
    assert facts.cache is not None
    assert (facts.cache.count, facts.cache_at) == (2, 1000 + WRITE_S)


async def test_nothing_is_written_while_nothing_is_due(node: Reported) -> None:
    await node.written()
    node_file(node.paths).unlink()
    node.now = WRITE_S - 1
    assert await node.written() is None


async def test_counts_that_cannot_be_written_are_kept_for_the_next_time(node: Reported) -> None:
    run = Path(node.paths.run)
    run.write_text("in the way")
    node.report.count_start(1.0)
    with pytest.raises(HostError):
        await node.written()
    run.unlink()
    node.report.count_start(1.0)
    facts = await node.written()
    assert facts is not None
    assert facts.counts.started == 2


async def test_a_cache_that_cannot_be_read_is_a_problem_and_keeps_no_count(
    node: Reported,
) -> None:
    node.paths.images_dir.mkdir(parents=True)
    (node.paths.images_dir / "blobs").write_text("no directory")
    node.report.count_start(1.0)
    facts = await node.written()
    assert facts is not None
    assert facts.cache is None
    assert facts.counts.started == 1
    assert any("images cannot be read" in problem for problem in facts.problems)
