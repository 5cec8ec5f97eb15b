"""Every query of the dashboard and of the alert rules asks for what a scrape has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes.figures import collected, figures
from fakes.promql import labels_of_text, read_query

from qemu_node.web.metrics.collect import _ENDS, _STATES, families

ROOT = Path(__file__).parents[4]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "dashboards" / "qemu-node.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((ROOT / "alerts" / "qemu-node.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

OF_SCRAPE = {"job", "instance"}
"""Labels that Prometheus adds."""
WORDS = {"state": _STATES, "outcome": _ENDS, "result": {"started", "failed", "cancelled"}}


def scraped() -> dict[str, set[str]]:
    """Return the labels of each series of a whole scrape."""
    found: dict[str, set[str]] = {"up": set()}
    for family in families(collected(figures())):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


SCRAPED = scraped()


def targets() -> Iterator[Any]:
    for panel in PANELS:
        for target in panel["targets"]:
            name = f"{panel['title']}-{target['refId']}"
            yield pytest.param(target["expr"], target["legendFormat"], id=name)


def check(expr: str, shown: set[str]) -> None:
    query = read_query(expr)
    assert query.metrics
    assert query.metrics <= SCRAPED.keys()
    known = OF_SCRAPE.union(*(SCRAPED[name] for name in query.metrics))
    assert query.labels <= known
    assert shown <= known, "a label that is shown is one of the result"
    for name, label, value in query.matchers:
        assert label in SCRAPED[name] | OF_SCRAPE
        if label in WORDS and name != "up":
            assert set(value.split("|")) <= WORDS[label]


@pytest.mark.parametrize(("expr", "legend"), list(targets()))
def test_a_panel_asks_for_what_is_there(expr: str, legend: str) -> None:
    check(expr, labels_of_text(legend))
    grouped = re.findall(r"sum by \(([^)]*)\)", expr)
    if grouped and "group_left" not in expr:
        assert labels_of_text(legend) <= {name.strip() for name in grouped[-1].split(",")}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_asks_for_what_is_there_and_says_what_to_do(rule: dict[str, Any]) -> None:
    summary, description = rule["annotations"]["summary"], rule["annotations"]["description"]
    check(rule["expr"], labels_of_text(summary) | labels_of_text(description))
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert description.endswith(".")
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}


def test_rules_of_one_vm_say_whose_it_is() -> None:
    of_vm = [rule for rule in RULES if "vm_id" in rule["annotations"]["summary"]]
    assert len(of_vm) >= 4
    assert all("instance" in rule["annotations"]["summary"] for rule in of_vm[:2])


def test_variables_of_the_dashboard_are_there_and_used() -> None:
    variables = {entry["name"]: entry for entry in DASHBOARD["templating"]["list"]}
    for entry in variables.values():
        if entry["type"] == "query":
            inner = re.fullmatch(r"label_values\((.*), (\w+)\)", entry["definition"])
            assert inner is not None
            query = read_query(inner[1])
            assert inner[2] in OF_SCRAPE.union(*(SCRAPED[name] for name in query.metrics))
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval"}
    assert used == set(variables)


def test_no_two_panels_have_one_id_or_one_place() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert 0 <= at["x"] <= 24 - at["w"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_panel_has_a_source_and_says_what_it_shows() -> None:
    assert {panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"} == {
        "Node",
        "VMs",
    }
    for panel in PANELS:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["description"]
        assert panel["type"] in ("stat", "timeseries", "table")
    assert DASHBOARD["id"] is None, "an id would be that of somebody's Grafana"
    assert DASHBOARD["schemaVersion"] >= 36
    assert "__inputs" not in DASHBOARD


def test_what_matters_is_on_the_dashboard() -> None:
    shown: set[str] = set().union(
        *(read_query(target["expr"]).metrics for panel in PANELS for target in panel["targets"])
    )
    for word in ("cpu", "pss", "memory_used", "merged", "overlay", "disk_read", "receive", "agent"):
        assert any(word in name for name in shown), word
    for word in ("images", "ksm", "starts", "failures", "ends"):
        assert any(word in name for name in shown), word
