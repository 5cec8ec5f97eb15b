import asyncio
import threading
from pathlib import Path

import pytest
from fakes.published import VM_ID, make_record, publish

from qemu_node.config.node import Paths
from qemu_node.vm import reconcile
from qemu_node.vm.names import vm_id
from qemu_node.vm.reconcile import EVIDENCE_GRACE_S, FoundVM, Reconciler, is_left_over, some
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory

WAIT_S = 60.0


def found(
    *,
    started: bool = True,
    running: bool = False,
    alloc: bool = True,
    for_s: float = 0.0,
    unreadable: str | None = None,
) -> FoundVM:
    return FoundVM(
        was_started=started,
        is_running=running,
        has_alloc=alloc,
        unmanaged_s=for_s,
        unreadable=unreadable,
    )


@pytest.mark.parametrize("running", [True, False])
def test_a_start_that_was_never_completed_goes_at_once(running: bool) -> None:
    assert is_left_over(found(started=False, running=running, alloc=False))


def test_a_running_vm_waits_for_the_driver_that_will_recover_it() -> None:
    assert not is_left_over(found(running=True, for_s=1e6))


def test_a_vm_of_an_allocation_that_nomad_removed_goes_even_while_it_runs() -> None:
    assert is_left_over(found(running=True, alloc=False))


def test_the_files_of_an_ended_vm_wait_for_whoever_asks_how_it_ended() -> None:
    assert not is_left_over(found(for_s=EVIDENCE_GRACE_S - 1))
    assert is_left_over(found(for_s=EVIDENCE_GRACE_S))


def test_a_running_vm_whose_state_cannot_be_read_is_kept_for_ever() -> None:
    assert not is_left_over(found(running=True, alloc=False, for_s=1e6, unreadable="newer"))


def test_an_ended_vm_whose_state_cannot_be_read_waits_as_any_other() -> None:
    ended = found(alloc=False, for_s=EVIDENCE_GRACE_S - 1, unreadable="damaged")
    assert not is_left_over(ended)
    ended = found(alloc=False, for_s=EVIDENCE_GRACE_S, unreadable="damaged")
    assert is_left_over(ended)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(run=str(tmp_path / "r"), data=str(tmp_path / "d"))


@pytest.mark.parametrize("content", [b'{"version": 99}', b"", b"{", b"\xff"])
async def test_a_vm_of_a_newer_driver_is_told_of_and_neither_killed_nor_removed(
    paths: Paths, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The VM's process is this one.
    monkeypatch.setattr(reconcile, "remove_vm", pytest.fail)
    directory = publish(paths, make_record(paths))
    directory.state_file.write_bytes(content)
    reconciler = Reconciler(paths)
    assert await reconciler.run() == []
    assert directory.state_file.read_bytes() == content
    (problem,) = reconciler.problems
    assert VM_ID in problem
    assert "cannot be read" in problem
    # Taken up by its own driver again, it is no problem any more.
    assert await reconciler.run({VM_ID}) == []
    assert reconciler.problems == []


async def test_a_vm_that_nobody_takes_up_is_told_of_once_nomad_has_had_time_to(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record(paths)
    Path(record.alloc_dir).mkdir(parents=True)
    publish(paths, record)
    reconciler = Reconciler(paths)
    await reconciler.run()
    assert reconciler.problems == []
    monkeypatch.setattr(reconcile, "RECOVERY_GRACE_S", 0.0)
    await reconciler.run()
    assert reconciler.problems[0].startswith(f"VMs run without a driver: {VM_ID} ")


def test_many_vms_are_counted_and_a_few_named() -> None:
    assert some(["a"]) == "a"
    assert some([f"vm-{n}" for n in range(9)]) == "vm-0, vm-1, vm-2 and 6 more"


async def test_others_run_while_vms_are_looked_at(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    others_ran = threading.Event()
    waited: list[bool] = []

    def slow_examine(*_: object, **__: object) -> FoundVM:
        waited.append(others_ran.wait(WAIT_S))
        return found(running=True)

    monkeypatch.setattr(reconcile, "examine", slow_examine)
    publish(paths, make_record(paths))
    looking = asyncio.ensure_future(Reconciler(paths).run())
    await asyncio.sleep(0)
    others_ran.set()
    assert await looking == []
    assert waited == [True]


async def test_a_look_that_is_cancelled_keeps_no_lock(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slow_examine(*_: object, **__: object) -> FoundVM:
        begun.set()
        may_end.wait(WAIT_S)
        return found(running=True)

    monkeypatch.setattr(reconcile, "examine", slow_examine)
    directory = publish(paths, make_record(paths))
    looking = asyncio.ensure_future(Reconciler(paths).run())
    assert await asyncio.to_thread(begun.wait, WAIT_S)
    looking.cancel()
    may_end.set()
    await asyncio.wait({looking})
    lock = DirectoryLock.try_acquire(directory.data)
    assert lock is not None
    lock.release()


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), PermissionError(1, "no")])
async def test_what_is_wrong_with_one_left_over_keeps_no_other_from_its_turn(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    seen: list[str] = []

    async def remove(directory: VMDirectory) -> None:
        seen.append(directory.vm_id)
        if len(seen) == 1:
            raise error

    monkeypatch.setattr(reconcile, "remove_vm", remove)
    left_over = [vm_id(f"alloc-{n}", "web") for n in range(3)]
    for name in left_over:
        VMDirectory.of(paths, name).create_data()
    assert await Reconciler(paths).run() == sorted(left_over)[1:]
    assert seen == sorted(left_over)
