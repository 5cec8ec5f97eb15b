"""Prometheus' own tool about the alert rules, the example, and a scrape."""

import os
import shutil
from pathlib import Path

import pytest
from fakes.figures import collected, figures
from prometheus_client.exposition import generate_latest

from qemu_node.host.process import command
from qemu_node.web.metrics.collect import families
from qemu_node.web.metrics.scrape import Families

ROOT = Path(__file__).parents[2]
PROMTOOL = shutil.which("promtool", path=f"{ROOT / '.tools'}:{os.environ['PATH']}")

pytestmark = pytest.mark.skipif(
    PROMTOOL is None, reason="no promtool: scripts/setup.sh fetches it (of Debian's prometheus)"
)


async def promtool(*arguments: str | Path, text: bytes = b"") -> None:
    assert PROMTOOL is not None
    argv = [PROMTOOL, *map(str, arguments)]
    done = await command.run(argv, timeout_s=120, check=False, stdin=text)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


async def test_the_alert_rules_are_good() -> None:
    await promtool("check", "rules", ROOT / "alerts" / "qemu-node.yml")


async def test_the_alert_rules_fire_when_they_should() -> None:
    await promtool("test", "rules", ROOT / "alerts" / "qemu-node.test.yml")


async def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    await promtool("check", "config", "--syntax-only", ROOT / "examples" / "prometheus.yml")


async def test_a_scrape_follows_the_conventions() -> None:
    text = generate_latest(Families(families(collected(figures()))))
    await promtool("check", "metrics", text=text)
