"""Names and labels follow the conventions."""

import re

import pytest

from qemu_node.web.metrics.table import Kind, Metric, of_node, of_vms

ALL = (*of_node(), *of_vms())
UNITS = ("_bytes", "_seconds", "_total", "_info")
COUNTED = {"state", "vms", "vcpus", "viewers", "problems", "images", "in_use", "running", "up"}
RESERVED = {"job", "instance", "le", "quantile", "__name__"}
"""Labels that Prometheus sets itself: a scrape's own are renamed (`exported_job`)."""


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_name_ends_with_its_unit(metric: Metric) -> None:
    assert re.fullmatch(r"qemu_node(_[a-z]+)+", metric.name)
    assert metric.name.endswith(UNITS) or any(metric.name.endswith(word) for word in COUNTED)
    assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER)
    assert not metric.name.endswith(("_count", "_sum", "_bucket", "_created"))


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_labels_collide_with_none_of_prometheus(metric: Metric) -> None:
    assert not RESERVED & set(metric.labels)
    assert all(re.fullmatch(r"[a-z_]+", name) for name in metric.labels)


def test_every_metric_of_a_vm_is_joined_by_vm_id() -> None:
    assert all(metric.labels[0] == "vm_id" for metric in of_vms())
    assert all("vm_id" not in metric.labels for metric in of_node())


def test_no_two_have_one_name() -> None:
    names = [metric.name for metric in ALL]
    assert len(names) == len(set(names))
