from pathlib import Path

import pytest

from qemu_node.cli.doctor.checks import Level
from qemu_node.cli.doctor.consolecheck import ConsoleFacts, judge_console, read_console
from qemu_node.config.node import NodeConfig, Paths

HERE = "127.0.0.1:5800"


@pytest.mark.parametrize(
    ("facts", "level", "detail"),
    [
        (ConsoleFacts(address=HERE, ways=("token", "ott")), Level.OK, "login by token, ott"),
        (ConsoleFacts(address=HERE, problem="refused"), Level.WARN, "does not answer: refused"),
        (ConsoleFacts(address=HERE, ways=("token",), why="no agent"), Level.WARN, "no agent"),
    ],
)
def test_a_console_is_good_if_somebody_can_log_in(
    facts: ConsoleFacts, level: Level, detail: str
) -> None:
    (check,) = judge_console(facts)
    assert check.level is level
    assert detail in check.detail


def test_where_no_daemon_runs_nothing_is_checked(tmp_path: Path) -> None:
    config = NodeConfig(paths=Paths(run=str(tmp_path), data="/d"))
    assert read_console(config) is None
    assert list(judge_console(None)) == []


def test_a_daemon_that_does_not_answer_is_said(tmp_path: Path) -> None:
    paths = Paths(run=str(tmp_path), data="/d")
    paths.web_run_dir.mkdir()
    paths.console_certificate.write_text("no certificate")
    facts = read_console(NodeConfig(paths=paths))
    assert facts is not None
    assert facts.problem
