"""Which VM of this node has which user id, when we are root.

Owns the leases, `<data>/vm/.uid/<uid>`, each with the vm_id of its VM. A lease is made under the
host's claim on the user (`host.process.users`) and lasts as long as the VM's files, which belong to
that user; the claim lasts as long as the VM's processes. A process is a VM's if both are there: the
lease says whose the user is on this node, the claim that no other node has it.
"""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.files import atomic
from qemu_node.host.files.directories import make_directory
from qemu_node.host.process.users import (
    UserClaim,
    drop_claim,
    holder_of,
    is_claimed,
    processes_of_user,
)
from qemu_node.vm.names import STATE_NAME, VM_ID

_BUSY_POLL_S = 0.01
_BUSY_WAIT_S = 1.0
"""For a moment, between fork and exec, a child of ours holds all of our descriptors."""


def lease_uid(vm_data_dir: Path, vm_id: str, first_uid: int, count: int) -> UserClaim:
    """Return the claim on a user id that nobody else on this host has, and write down whose it is.

    The VM's processes are to inherit the claim.

    Raises:
        HostError: all are taken, others run something as such a user, or the file system refused.
    """
    leases = vm_data_dir / ".uid"
    try:
        make_directory(leases, 0o700)
        # Start at a place of the VM's own, so that a uid is not reused right after its VM went.
        offset = int(vm_id[-12:], 16)
        for n in range(count):
            uid = first_uid + (offset + n) % count
            claim = _claim(leases / str(uid), uid, vm_data_dir / vm_id)
            if claim is not None:
                return claim
    except OSError as exc:
        raise atomic.host_error("lease a user id in", leases, exc) from exc
    raise HostError(
        f"all {count} user ids for VMs are taken",
        hint="raise qemu.uid_count in node.toml; if VMs of another node on this machine have them, "
        "give this one other ids by qemu.first_uid",
    )


def _claim(lease: Path, uid: int, directory: Path) -> UserClaim | None:
    """Claim a user and write its lease; None if others have it."""
    if not _is_free(lease, directory.name):
        return None
    claim = UserClaim.take(uid, directory)
    if claim is None:
        return None
    try:
        # Nobody writes it without the claim: what it says now stays.
        if _is_free(lease, directory.name):
            _write(lease, directory.name)
            return claim
    except BaseException:
        claim.close()
        raise
    claim.close()
    return None


def _is_free(lease: Path, vm_id: str) -> bool:
    """Tell whether nobody else has a lease; a killed driver may have left it, empty or not."""
    try:
        return _read(lease) in ("", vm_id)
    except FileNotFoundError:
        return True


def _write(lease: Path, vm_id: str) -> None:
    """Write the id of its VM into a lease; if the disk is full, no lease is left."""
    fd = os.open(lease, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        atomic.write_all(fd, vm_id.encode())
    except OSError:
        lease.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def uid_leases(vm_data_dir: Path) -> dict[int, str]:
    """Return which VM has which user id; an unreadable or damaged lease counts as held by ""."""
    leases: dict[int, str] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(vm_data_dir / ".uid"):
            if entry.name.isdigit():
                with contextlib.suppress(FileNotFoundError):
                    leases[int(entry.name)] = _read(Path(entry.path))
    return leases


def _read(lease: Path) -> str:
    text = lease.read_text(errors="replace")
    return text if VM_ID.fullmatch(text) else ""


def live_leases(vm_data_dir: Path) -> dict[int, str]:
    """Return those leases of which the user was not claimed by another node since."""
    return {
        uid: vm_id
        for uid, vm_id in uid_leases(vm_data_dir).items()
        if vm_id and holder_of(uid) == vm_data_dir / vm_id
    }


def leased_uids(vm_data_dir: Path, vm_id: str, uid: int | None = None) -> list[int]:
    """Return the user ids that `vm_id` has.

    Args:
        vm_data_dir: Where the leases are.
        vm_id: The VM.
        uid: Its user id; if None all leases are read, which takes 13 ms where there are 300.
    """
    if uid is None:
        return [uid for uid, holder in uid_leases(vm_data_dir).items() if holder == vm_id]
    with contextlib.suppress(OSError):
        if _read(vm_data_dir / ".uid" / str(uid)) == vm_id:
            return [uid]
    return []


def is_in_use(directory: Path, uid: int) -> bool:
    """Tell whether a process runs as the user of the VM in `directory`, or is about to."""
    # None: nobody has claimed it since the boot, or the claims were lost with /run.
    if holder_of(uid) not in (None, directory):
        return False
    return is_launching(directory, uid) or bool(processes_of_user(uid))


def is_launching(directory: Path, uid: int) -> bool:
    """Tell whether something has the user of the VM in `directory` claimed to become it.

    Once the start is completed, QEMU runs as that user and the claim proves nothing more: a guest
    that has taken over its QEMU can pass the descriptor to the QEMU of another guest.
    """
    return not os.path.lexists(directory / STATE_NAME) and is_claimed(uid)


def check_unused(directory: Path, uids: Iterable[int]) -> None:
    """Return if nothing runs as the users `uids` of the VM in `directory`.

    Raises:
        HostError: something does.
    """
    deadline = time.monotonic() + _BUSY_WAIT_S
    for uid in uids:
        while is_in_use(directory, uid):
            if time.monotonic() > deadline:
                raise HostError(
                    f"a process of VM {directory.name} still runs as user {uid}: its files stay"
                )
            time.sleep(_BUSY_POLL_S)


def release_uids(directory: Path, uids: Iterable[int]) -> None:
    """Give back the users of the VM in `directory`, whose files are gone; not one that is in use.

    Raises:
        HostError: the host refused.
    """
    for uid in uids:
        _release(directory, uid, directory.name)


def _release(directory: Path, uid: int, vm_id: str) -> None:
    lease = directory.parent / ".uid" / str(uid)

    def remove_lease() -> None:
        with contextlib.suppress(FileNotFoundError):
            if _read(lease) == vm_id:
                lease.unlink()

    try:
        # Who makes a lease holds the claim meanwhile.
        drop_claim(uid, directory, remove_lease)
    except OSError as exc:
        raise atomic.host_error("release", lease, exc) from exc


def release_stale(vm_data_dir: Path) -> None:
    """Give back the users of VMs that are gone, and those whose lease a killed driver left empty.

    Raises:
        HostError: the host refused.
    """
    for uid, vm_id in uid_leases(vm_data_dir).items():
        directory = vm_data_dir / vm_id
        if not vm_id:
            _release(vm_data_dir / "nobody", uid, vm_id)
        elif not os.path.lexists(directory) and not is_in_use(directory, uid):
            _release(directory, uid, vm_id)
