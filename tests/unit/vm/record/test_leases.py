"""Users of VMs, with a directory of claims of the test's own: ids that nothing here runs as."""

import fcntl
from pathlib import Path

import pytest

from qemu_node.cli.doctor.checks import UidRange
from qemu_node.cli.doctor.nodefacts import uids_of_others
from qemu_node.errors import HostError
from qemu_node.host.process import users
from qemu_node.host.process.identity import identify
from qemu_node.host.process.users import holder_of, is_claimed
from qemu_node.vm.names import vm_id
from qemu_node.vm.record.leases import (
    lease_uid,
    leased_uids,
    live_leases,
    release_stale,
    release_uids,
    uid_leases,
)

VM_A = vm_id("alloc-a", "web")
VM_B = vm_id("alloc-b", "web")
FIRST = 4_000_000


@pytest.fixture(autouse=True)
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "claims"
    monkeypatch.setattr(users, "CLAIMS_DIR", path)
    return path


@pytest.fixture
def vms(tmp_path: Path) -> Path:
    return _vms(tmp_path / "data")


def _vms(data: Path) -> Path:
    """Return the directory of the VMs of one node, with those of two."""
    for name in (VM_A, VM_B):
        (data / "vm" / name).mkdir(parents=True)
    return data / "vm"


def test_every_vm_gets_a_user_of_its_own_until_there_are_no_more(vms: Path) -> None:
    holders = [vm_id(f"alloc-{n}", "web") for n in range(5)]
    taken = [lease_uid(vms, holder, FIRST, 5) for holder in holders]
    assert sorted(user.uid for user in taken) == list(range(FIRST, FIRST + 5))
    with pytest.raises(HostError, match="all 5 user ids"):
        lease_uid(vms, VM_B, FIRST, 5)
    taken[2].close()
    with pytest.raises(HostError, match="all 5 user ids"):
        # Its files are still there.
        lease_uid(vms, VM_B, FIRST, 5)
    release_uids(vms / holders[2], leased_uids(vms, holders[2]))
    assert lease_uid(vms, VM_B, FIRST, 5).uid == taken[2].uid


def test_two_nodes_with_the_same_range_never_have_one_user_at_once(tmp_path: Path) -> None:
    one, other = _vms(tmp_path / "one"), _vms(tmp_path / "two" / "one")
    user = lease_uid(one, VM_A, FIRST, 2)
    assert lease_uid(other, VM_A, FIRST, 2).uid != user.uid
    with pytest.raises(HostError, match="all 2 user ids") as caught:
        lease_uid(other, VM_B, FIRST, 2)
    assert "qemu.first_uid" in (caught.value.hint or "")


def test_users_of_vms_of_another_node_are_told_of(tmp_path: Path) -> None:
    one, other = _vms(tmp_path / "one"), _vms(tmp_path / "two")
    mine, theirs = lease_uid(one, VM_A, FIRST, 9), lease_uid(other, VM_B, FIRST, 9)
    lease_uid(other, vm_id("ended", "web"), FIRST, 9).close()
    assert users.claimed_users() == {mine.uid: one / VM_A, theirs.uid: other / VM_B}
    assert uids_of_others(one) == [UidRange(owner=f"VM {other / VM_B}", first=theirs.uid)]


def test_a_user_whose_files_another_node_still_has_is_not_taken(tmp_path: Path) -> None:
    one, other = _vms(tmp_path / "one"), _vms(tmp_path / "two")
    lease_uid(one, VM_A, FIRST, 1).close()
    with pytest.raises(HostError, match="all 1 user ids"):
        lease_uid(other, VM_A, FIRST, 1)
    (one / VM_A).rmdir()
    lease_uid(other, VM_A, FIRST, 1).close()
    # What runs as the user now is none of the first node's.
    assert live_leases(one) == {}
    assert live_leases(other) == {FIRST: VM_A}


def test_a_user_that_a_foreign_process_runs_as_is_refused_with_the_setting_to_change(
    vms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = identify(1)
    assert own is not None
    monkeypatch.setattr(users, "processes_of_user", lambda uid: [own])
    with pytest.raises(HostError, match=f"user id {FIRST} .* process 1 runs as it") as caught:
        lease_uid(vms, VM_A, FIRST, 1)
    assert "qemu.first_uid" in (caught.value.hint or "")
    assert uid_leases(vms) == {}
    assert not is_claimed(FIRST)


def test_a_claim_ends_with_the_last_descriptor_and_not_with_its_file(
    vms: Path, claims: Path
) -> None:
    user = lease_uid(vms, VM_A, FIRST, 1)
    assert is_claimed(FIRST)
    assert holder_of(FIRST) == vms / VM_A
    user.close()
    user.close()
    assert not is_claimed(FIRST)
    assert (claims / str(FIRST)).exists()


def test_a_claim_of_an_earlier_boot_says_nothing(
    vms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease_uid(vms, VM_A, FIRST, 1).close()
    monkeypatch.setattr(users, "boot_id", lambda: "another")
    assert holder_of(FIRST) is None
    assert live_leases(vms) == {}


def test_users_of_vms_that_are_gone_are_given_back_and_no_others(vms: Path, claims: Path) -> None:
    gone, starting = vm_id("gone", "web"), vm_id("starting", "web")
    lease_uid(vms, gone, FIRST, 3).close()
    # Its directory was removed by hand, its QEMU was not.
    running = lease_uid(vms, starting, FIRST, 3)
    kept = lease_uid(vms, VM_A, FIRST, 3)
    kept.close()
    release_stale(vms)
    assert uid_leases(vms) == {running.uid: starting, kept.uid: VM_A}
    assert sorted(claims.iterdir()) == [claims / str(n) for n in sorted([running.uid, kept.uid])]


@pytest.mark.parametrize("text", ["", VM_A])
def test_what_a_killed_driver_left_of_a_lease_is_used_again(vms: Path, text: str) -> None:
    lease_uid(vms, VM_A, FIRST, 1).close()
    (vms / ".uid" / str(FIRST)).write_text(text)
    assert lease_uid(vms, VM_A, FIRST, 1).uid == FIRST
    assert uid_leases(vms) == {FIRST: VM_A}


def test_a_lease_that_is_about_to_be_signed_stays(vms: Path) -> None:
    user = lease_uid(vms, VM_A, FIRST, 1)
    (vms / ".uid" / str(user.uid)).write_bytes(b"")
    release_stale(vms)
    assert uid_leases(vms) == {user.uid: ""}
    user.close()
    release_stale(vms)
    assert uid_leases(vms) == {}


@pytest.mark.parametrize("text", ["/etc", "..", ".uid", "web-1\n", "\udcff"])
def test_what_is_no_id_in_a_lease_never_becomes_a_path(vms: Path, text: str) -> None:
    (vms / ".uid").mkdir()
    (vms / ".uid" / str(FIRST)).write_text(text, errors="surrogateescape")
    assert uid_leases(vms) == {FIRST: ""}
    release_stale(vms)
    assert uid_leases(vms) == {}


def test_a_claim_on_a_file_that_its_last_holder_removed_meanwhile_is_taken_anew(
    vms: Path, claims: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, locked = fcntl.flock, 0

    def lock_a_lost_file(fd: int, operation: int) -> None:
        nonlocal locked
        lock(fd, operation)
        locked += 1
        if locked == 1:
            (claims / str(FIRST)).unlink()

    monkeypatch.setattr(fcntl, "flock", lock_a_lost_file)
    user = lease_uid(vms, VM_A, FIRST, 1)
    assert locked == 2
    assert is_claimed(FIRST)
    user.close()
