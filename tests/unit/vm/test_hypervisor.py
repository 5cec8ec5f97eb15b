import os
from pathlib import Path

import pytest

from qemu_node.config.node import Paths, QemuConfig, default_paths
from qemu_node.errors import HostError
from qemu_node.host.process import users
from qemu_node.host.process.users import UserClaim
from qemu_node.vm.hypervisor import HypervisorFinder

FIRST = 4_000_000


async def test_the_proof_has_a_user_that_no_vm_of_this_or_another_node_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "CLAIMS_DIR", tmp_path / "claims")
    finder = HypervisorFinder(
        QemuConfig(first_uid=FIRST, uid_count=1),
        Paths(run=str(tmp_path / "r"), data=str(tmp_path / "d")),
        is_root=True,
        kvm_gid=None,
    )
    async with finder._proof_user(tmp_path) as uid:
        assert uid == FIRST + 1
        assert UserClaim.take(FIRST + 1, tmp_path / "other") is None
    # Another node's range begins there.
    assert UserClaim.take(FIRST + 1, tmp_path / "other") is not None
    async with finder._proof_user(tmp_path) as uid:
        assert uid == FIRST
    assert UserClaim.take(FIRST, tmp_path / "other") is not None
    with pytest.raises(HostError, match="all user ids"):
        async with finder._proof_user(tmp_path):
            pass


def test_a_user_without_a_login_session_is_told_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").write_text("a file: nothing can be made below it, by root neither")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run" / "user" / "1000"))
    data = str(tmp_path / "d")
    for paths, advice in (
        (Paths(run=default_paths().run, data=data), "XDG_RUNTIME_DIR"),
        (Paths(run=str(tmp_path / "run" / "mine"), data=data), "set paths.run in node.toml"),
    ):
        finder = HypervisorFinder(QemuConfig(), paths, is_root=False, kvm_gid=None)
        with pytest.raises(HostError, match="cannot make") as caught:
            finder._make_work_dir()
        assert advice in (caught.value.hint or "")
