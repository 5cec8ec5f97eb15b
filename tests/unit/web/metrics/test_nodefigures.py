from pathlib import Path

import pytest

from qemu_node.config.node import NodeConfig, Paths
from qemu_node.web.metrics.nodefigures import parse_meminfo, read_figures, read_ksm


def test_a_kernel_without_ksm_has_none(tmp_path: Path) -> None:
    assert read_ksm(tmp_path) is None
    for name, value in (("run", 1), ("pages_sharing", 3), ("pages_shared", 1), ("full_scans", 7)):
        (tmp_path / name).write_text(f"{value}\n")
    ksm = read_ksm(tmp_path)
    assert ksm is not None
    assert (ksm.is_running, ksm.full_scans, ksm.profit_bytes) == (True, 7, None)
    assert ksm.merged_bytes == 3 * ksm.shared_bytes
    (tmp_path / "general_profit").write_text("-64\n")
    ksm = read_ksm(tmp_path)
    assert ksm is not None
    assert ksm.profit_bytes == -64, "where nothing is merged, the lists cost more than they save"


@pytest.mark.parametrize(
    "text", ["", "MemTotal: 1 kB", "MemTotal: x kB\nMemAvailable: 1 kB", "MemTotal:\nMemAvailable:"]
)
def test_a_meminfo_that_does_not_say_it_is_none(text: str) -> None:
    assert parse_meminfo(text) is None


def test_meminfo_is_in_kibibytes() -> None:
    memory = parse_meminfo("MemTotal:  2 kB\nMemFree: 0 kB\nMemAvailable:    1 kB\n")
    assert memory is not None
    assert (memory.total_bytes, memory.available_bytes) == (2048, 1024)


def test_a_node_without_a_driver_has_figures_all_the_same(tmp_path: Path) -> None:
    paths = Paths(run=str(tmp_path / "r"), data=str(tmp_path / "d"))
    figures = read_figures(NodeConfig(paths=paths))
    assert figures.driver is None
    assert figures.memory is not None
    assert figures.disk is not None
    assert figures.reserve_bytes is not None
    assert 0 < figures.reserve_bytes < figures.disk.total_bytes
