from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.config.node import Paths
from qemu_node.vm.record.nodefile import (
    NODE_VERSION,
    CacheFacts,
    Counts,
    NodeFacts,
    NodeFile,
    node_file,
    read_node,
)

CACHE = CacheFacts(count=2, bytes=4096, in_use=1, in_use_bytes=1024)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(run=str(tmp_path / "r"), data=str(tmp_path / "d"))


def add(paths: Paths, counts: Counts = Counts(), cache: CacheFacts | None = None) -> NodeFacts:  # noqa: B008
    NodeFile(paths).add(counts, now_s=7.0, driver_version="1", problems=("p",), cache=cache)
    facts = read_node(paths)
    assert facts is not None
    return facts


def test_what_two_drivers_of_a_node_count_is_added_up(paths: Paths) -> None:
    one = Counts(started=1, start_s=0.5, failed={"image": 1})
    other = Counts(started=2, start_s=1.0, cancelled=1, failed={"image": 1, "qmp": 1})
    add(paths, one, CACHE)
    facts = add(paths, other)
    assert facts.counts == Counts(
        started=3, start_s=1.5, cancelled=1, failed={"image": 2, "qmp": 1}
    )
    assert facts.problems == ("p",)
    assert (facts.cache, facts.cache_at) == (CACHE, 7.0), "it stays until it is read again"


def test_the_images_of_other_directories_are_not_this_nodes(paths: Paths) -> None:
    add(paths, Counts(started=1), CACHE)
    other = msgspec.structs.replace(paths, data=paths.data + "-other")
    assert read_node(other) is None
    facts = add(other, Counts(started=1))
    assert facts.cache is None
    assert facts.counts.started == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"written_at":"x"}',
        b'{"version":99,"written_at":1}',
        b"{" * 999,
    ],
)
def test_a_file_that_cannot_be_read_is_none_and_is_replaced(paths: Paths, content: bytes) -> None:
    assert read_node(paths) is None
    add(paths)
    node_file(paths).write_bytes(content)
    assert read_node(paths) is None
    assert add(paths, Counts(started=1)).counts.started == 1


def test_keys_of_a_newer_driver_are_ignored_and_missing_ones_have_defaults(paths: Paths) -> None:
    add(paths)
    node_file(paths).write_bytes(
        msgspec.json.encode(
            {"version": NODE_VERSION, "written_at": 1, "data_dir": paths.data, "new": {"a": [1]}}
        )
    )
    facts = read_node(paths)
    assert facts is not None
    assert (facts.counts, facts.cache, facts.problems) == (Counts(), None, ())


def test_others_may_read_it_and_a_link_in_its_place_is_not_followed(paths: Paths) -> None:
    add(paths)
    path = node_file(paths)
    assert path.stat().st_mode & 0o777 == 0o644
    aside = path.rename(path.with_name("aside"))
    path.symlink_to(aside)
    assert read_node(paths) is None


counts = st.builds(
    Counts,
    started=st.integers(0, 99),
    cancelled=st.integers(0, 99),
    failed=st.dictionaries(st.sampled_from(["check", "image"]), st.integers(0, 9)),
    ended=st.dictionaries(st.sampled_from(["hung", "qemu"]), st.integers(0, 9)),
)


@given(counts, counts)
def test_no_count_gets_lost_or_smaller(one: Counts, other: Counts) -> None:
    both = one.plus(other)
    assert both == other.plus(one)
    assert both.started == one.started + other.started
    assert sum(both.failed.values()) == sum(one.failed.values()) + sum(other.failed.values())
    assert both.ended.keys() == one.ended.keys() | other.ended.keys()
