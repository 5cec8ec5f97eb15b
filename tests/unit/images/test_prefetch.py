import asyncio
import logging
from dataclasses import dataclass, field

import pytest
from fakes.stored_images import put

from qemu_node.config.images import CredentialConfig
from qemu_node.host.concurrency.loops import Troubles
from qemu_node.images.download.pull import Pulled
from qemu_node.images.errors import ImageDownloadError
from qemu_node.images.prefetch import Prefetcher, prefetched_keys
from qemu_node.images.source.credentials import CredentialStore
from qemu_node.images.source.name import PathSource, parse_source
from qemu_node.images.source.remote import find_remote
from qemu_node.images.store.sourcerecord import SourceRecord
from qemu_node.images.store.store import ImageStore

A, B = "http://h/a", "http://h/b"


@dataclass
class Source:
    """A cache whose pulls go as told; `enough` is set after so many."""

    record: SourceRecord
    answers: dict[str, list[str | None]]
    wanted: int
    pulled: list[str] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def pull(self, source: str, /) -> Pulled:
        self.pulled.append(source)
        if len(self.pulled) >= self.wanted:
            self.enough.set()
        answers = self.answers.get(source, [])
        problem = answers.pop(0) if answers else None
        if problem == "?":
            raise UnicodeError("label too long")
        if problem is not None and problem.startswith("!"):
            raise ImageDownloadError(problem)
        return Pulled(version=self.record, note=problem)


@pytest.fixture
def record(tmp_path: object) -> SourceRecord:
    store = ImageStore(tmp_path / "images")  # type: ignore[operator]
    store.prepare()
    return put(store)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qemu_node.images.prefetch._INTERVAL_MIN_S", 0.0)


async def run(source: Source, *sources: str) -> None:
    async with asyncio.TaskGroup() as group:
        running = group.create_task(Prefetcher(source.pull, sources, 0.0).run(Troubles()))
        await asyncio.wait_for(source.enough.wait(), 60)
        running.cancel()


async def test_each_source_is_pulled_again_and_again(record: SourceRecord) -> None:
    source = Source(record, {}, wanted=6)
    await run(source, A, B, A)
    assert source.pulled[:6] == [A, B, A, B, A, B]


async def test_lasting_failure_is_said_once_and_its_end_too(
    record: SourceRecord, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "qemu_node.images.prefetch")
    source = Source(record, {A: ["!down", "!down", "old image", None, None]}, wanted=6)
    await run(source, A)
    assert [(entry.levelname, entry.getMessage()) for entry in caplog.records] == [
        ("WARNING", "image not prefetched"),
        ("WARNING", "image not prefetched"),
        ("INFO", "image prefetched again"),
    ]


async def test_a_fault_of_ours_at_one_source_ends_the_prefetching_of_none(
    record: SourceRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qemu_node.host.concurrency.loops._PAUSE_MIN_S", 0.0)
    source = Source(record, {A: ["?", "?", None]}, wanted=8)
    await run(source, A, B)
    assert source.pulled[:8] == [A, B] * 4


async def test_nothing_to_prefetch_ends_by_itself(record: SourceRecord) -> None:
    await asyncio.wait_for(Prefetcher(Source(record, {}, 0).pull, (), 300.0).run(Troubles()), 60)


def test_a_prefetched_source_is_the_one_that_no_job_has() -> None:
    entries = (
        CredentialConfig(host="h", token_file="/t"),
        CredentialConfig(host="h", token_file="/u", namespaces=("team",)),
    )
    credentials = CredentialStore(entries)
    source = parse_source("https://h/x?token=1")
    assert not isinstance(source, PathSource)
    as_anybody = find_remote(source, credentials, None)
    as_team = find_remote(source, credentials, "team")
    keys = prefetched_keys(["https://h/x?token=1"], credentials)
    assert keys == {as_anybody.key}
    assert as_team.key not in keys
