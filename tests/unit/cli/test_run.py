from pathlib import Path

import pytest

from qemu_node.cli.main import main
from qemu_node.cli.run import exit_code
from qemu_node.run.session import SessionResult


def test_run_names_a_mistake_in_the_job_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QEMU_NODE_CONFIG", raising=False)
    job = tmp_path / "x.nomad.hcl"
    job.write_text('job "x" {\n  nope = 1\n}\n')
    assert main(["run", "--parser", "hcl2", str(job)]) == 1
    assert f"error: {job}:2: there is no argument 'nope' here" in capsys.readouterr().err


def test_run_names_a_wrong_node_toml(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    job = tmp_path / "x.nomad.hcl"
    job.write_text("")
    assert main(["--config", str(tmp_path / "none.toml"), "run", str(job)]) == 1
    assert "none.toml: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("failed", "was_forced", "code"),
    [((), False, 0), (("g[0]",), False, 1), ((), True, 130), (("g[0]",), True, 1)],
)
def test_a_failed_vm_decides_the_exit_code(
    failed: tuple[str, ...], was_forced: bool, code: int
) -> None:
    assert exit_code(SessionResult(failed=failed, was_forced=was_forced)) == code
