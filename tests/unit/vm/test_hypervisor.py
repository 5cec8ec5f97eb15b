from pathlib import Path

import pytest

from qemu_node.config.node import Paths, QemuConfig
from qemu_node.errors import HostError
from qemu_node.host import users
from qemu_node.host.users import UserClaim
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
