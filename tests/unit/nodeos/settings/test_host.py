from pathlib import Path

import pytest

from qemu_node.errors import ConfigError
from qemu_node.host.process.command import Completed
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.settings import host
from qemu_node.nodeos.settings.host import keep_hostname, keep_password

_HASH = "$6$abcdefgh$" + "x" * 86


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], bytes]]:
    ran: list[tuple[list[str], bytes]] = []

    def run(argv: list[str], *, stdin: bytes = b"", timeout_s: float) -> Completed:
        ran.append((argv, stdin))
        return Completed(returncode=0, stdout=b"", stderr=b"")

    monkeypatch.setattr(host, "run_blocking", run)
    return ran


def test_a_host_name_counts_now_and_at_every_boot(
    tmp_path: Path, ran: list[tuple[list[str], bytes]]
) -> None:
    keep_hostname(NodePaths(tmp_path), "node2")
    assert (tmp_path / "oem/qemu-node/host/hostname").read_text() == "node2\n"
    assert ran == [(["hostnamectl", "set-hostname", "node2"], b"")]


def test_a_password_is_kept_for_root_only_and_is_on_no_command_line(
    tmp_path: Path, ran: list[tuple[list[str], bytes]]
) -> None:
    keep_password(NodePaths(tmp_path), _HASH)
    kept = tmp_path / "oem/qemu-node/host/root-password"
    assert kept.read_text() == f"root:{_HASH}\n"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert ran == [(["chpasswd", "--encrypted"], f"root:{_HASH}\n".encode())]


def test_a_wrong_setting_changes_nothing(
    tmp_path: Path, ran: list[tuple[list[str], bytes]]
) -> None:
    with pytest.raises(ConfigError):
        keep_hostname(NodePaths(tmp_path), "Node 2")
    with pytest.raises(ConfigError):
        keep_password(NodePaths(tmp_path), "secret")
    assert not ran
    assert not list(tmp_path.iterdir())
