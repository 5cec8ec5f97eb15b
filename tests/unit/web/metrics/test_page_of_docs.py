"""docs/metrics.md has each metric as the table has it."""

import re
from pathlib import Path

from qemu_node.web.metrics.table import Metric, of_node, of_vms

PAGE = Path(__file__).parents[4] / "docs" / "metrics.md"


def row(metric: Metric) -> str:
    labels = ", ".join(f"`{name}`" for name in metric.labels if name != "vm_id") or ""
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} | {metric.source} |"


def rows(metrics: tuple[Metric, ...]) -> str:
    return "\n".join(row(metric) for metric in metrics)


def test_every_metric_has_its_row_in_order() -> None:
    text = PAGE.read_text()
    for metrics in (of_vms(), of_node()):
        assert rows(metrics) in text, f"docs/metrics.md should have:\n{rows(metrics)}"


def test_no_row_is_of_a_metric_that_is_gone() -> None:
    shown = re.findall(r"^\| `(qemu_node_\w+)` ", PAGE.read_text(), re.MULTILINE)
    assert shown == [metric.name for metric in (*of_vms(), *of_node())]
