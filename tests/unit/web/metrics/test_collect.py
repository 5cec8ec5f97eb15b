"""From VMs and node to metrics."""

import dataclasses
import tracemalloc

import msgspec
import pytest
from fakes.figures import NODE, USAGE, collected, figures
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from qemu_node.inventory.state import VMStatus
from qemu_node.web.metrics.collect import LABEL_MAX_CHARS, Collected, families
from qemu_node.web.metrics.nodefigures import NodeFigures
from qemu_node.web.metrics.scrape import Families
from qemu_node.web.metrics.table import of_node, of_vms

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def text_of(seen: Collected) -> str:
    return generate_latest(Families(families(seen))).decode()


def parsed(text: str) -> Series:
    """Return the series of a scrape, as Prometheus would read them."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def series(seen: Collected) -> Series:
    return parsed(text_of(seen))


def value(found: Series, name: str, **labels: str) -> float:
    return found[f"qemu_node_{name}", frozenset(labels.items())]


def test_a_vm_has_every_metric_of_the_table_and_no_other() -> None:
    found = series(collected(figures()))
    names = {name for name, _ in found}
    wanted = {metric.name for metric in (*of_node(), *of_vms())}
    summary = "qemu_node_vm_start_duration_seconds"
    assert names == wanted - {summary} | {f"{summary}_sum", f"{summary}_count"}
    labels = {metric.name: set(metric.labels) for metric in (*of_node(), *of_vms())}
    for name, given_labels in found:
        assert {key for key, _ in given_labels} == labels.get(name, set())


def test_figures_are_what_fleet_and_driver_have() -> None:
    found = series(collected(figures(), others=[VMStatus.STARTING], troubles=2))
    vm_id = "web-0123456789ab"
    assert value(found, "vm_memory_pss_bytes", vm_id=vm_id) == USAGE.pss_bytes
    assert value(found, "vm_memory_merged_bytes", vm_id=vm_id) == USAGE.merged_bytes
    assert value(found, "vm_overlay_bytes", vm_id=vm_id) == USAGE.overlay_bytes
    assert value(found, "vm_usage_timestamp_seconds", vm_id=vm_id) == USAGE.measured_at
    assert value(found, "vm_cpu_seconds_total", vm_id=vm_id, mode="user") == 3.0
    assert value(found, "vm_network_receive_bytes_total", vm_id=vm_id, nic="0") == 20
    assert value(found, "vm_network_filtered_frames_total", vm_id=vm_id, reason="mac") == 3
    assert value(found, "vms", state="starting") == 1
    assert value(found, "problems", source="console") == 2
    assert value(found, "problems", source="driver") == 1
    assert value(found, "images") == 3
    assert value(found, "ksm_profit_bytes") == -5
    assert value(found, "vm_starts_total", result="failed") == 3
    assert value(found, "vm_start_failures_total", step="image") == 2
    assert value(found, "vm_start_duration_seconds_sum") == 2.5
    assert value(found, "vm_ends_total", outcome="hung") == 0


def test_what_is_not_known_is_absent_and_never_zero() -> None:
    bare = dataclasses.replace(
        figures(), usage=None, agent_answered_at=None, memory_said_at=None, nics=(None,)
    )
    found = series(
        dataclasses.replace(collected(bare, node=NodeFigures()), cpu={bare.view.vm_id: None})
    )
    names = {name.removeprefix("qemu_node_") for name, _ in found}
    assert names == {
        *("info", "vms", "problems", "vm_info", "vm_state", "vm_start_time_seconds", "vm_vcpus"),
        *("vm_memory_reserved_bytes", "vm_memory_limit_bytes", "vm_memory_plugged_bytes"),
        *("vm_monitor_up", "vm_viewers"),
    }


def test_a_node_without_vms_says_so() -> None:
    assert value(series(collected()), "vms", state="running") == 0


def test_openmetrics_has_the_same_figures() -> None:
    seen = collected(figures(), figures("db-ba9876543210"))
    text = generate_openmetrics(Families(families(seen))).decode()  # type: ignore[no-untyped-call]
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_openmetrics(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }
    assert found == series(seen)


HOSTILE = [
    'x"} 1\nqemu_node_vms{state="running"} 9999\n#',
    "back\\slash and \\n",
    "line\nfeed\rreturn\0nul\x1b[31m",
    "\u202e reversed \u2066",
    "\ud800 half a pair",
    "日本 ä\U0001f600",
    "a" * 100_000,
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_one_label_of_one_series(name: str) -> None:
    seen = collected(
        figures(job=name, group=name, task=name, namespace=name, image=name, alloc_id=name)
    )
    text = text_of(seen)
    plain = text_of(collected(figures()))
    assert text.count("\n") == plain.count("\n")
    found = series(seen)
    assert value(found, "vms", state="running") == 1
    ((_, labels),) = [key for key in found if key[0] == "qemu_node_vm_info"]
    job = dict(labels)["nomad_job"]
    assert len(job) <= LABEL_MAX_CHARS
    assert job.isprintable()
    assert text.isascii() or "日本" in name


@given(st.text(alphabet=st.characters(), max_size=200))
def test_no_name_changes_the_number_of_lines_or_cannot_be_sent(name: str) -> None:
    text = text_of(collected(figures(job=name, image=name)))
    assert text.count("\n") == text_of(collected(figures())).count("\n")
    assert len(series(collected(figures(job=name, image=name)))) == len(
        series(collected(figures()))
    )


def test_nothing_that_a_guest_says_is_a_label() -> None:
    plain = text_of(collected(figures()))
    hostile = text_of(
        collected(figures(host_name="evil", addresses=("6.6.6.6",), thumbnail="evil"))
    )
    assert hostile == plain


def test_words_that_are_on_no_list_are_one_word() -> None:
    usage = msgspec.structs.replace(USAGE, drops={"mac": 1, "x": 2, "y": 3})
    assert NODE.driver is not None
    driver = msgspec.structs.replace(
        NODE.driver,
        counts=msgspec.structs.replace(NODE.driver.counts, failed={"new": 1}, ended={"new": 2}),
    )
    seen = collected(
        dataclasses.replace(figures(state="made-up"), usage=usage),
        node=dataclasses.replace(NODE, driver=driver),
    )
    found = series(seen)
    vm_id = "web-0123456789ab"
    assert value(found, "vm_network_filtered_frames_total", vm_id=vm_id, reason="other") == 5
    assert value(found, "vm_start_failures_total", step="other") == 1
    assert value(found, "vm_ends_total", outcome="other") == 2
    assert value(found, "vm_state", vm_id=vm_id, state="other") == 1


def test_500_vms_are_one_scrape_of_bounded_size() -> None:
    many = [figures(f"web-{number:012x}") for number in range(500)]
    text = text_of(collected(*many))
    found = parsed(text)
    one = len(series(collected(figures()))) - len(series(collected()))
    assert len(found) == 500 * one + len(series(collected()))
    assert len(text) < 2 << 20


def test_a_scrape_leaves_nothing_behind() -> None:
    """Series of VMs that are gone would stay in a registry that outlives a scrape."""
    many = collected(*(figures(f"web-{number:012x}") for number in range(50)))
    text_of(many)
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for _ in range(5):
            text_of(many)
        grown = tracemalloc.take_snapshot().compare_to(before, "filename")
    finally:
        tracemalloc.stop()
    assert sum(stat.size_diff for stat in grown) < 1 << 20
