"""The launcher with the real sh and setpriv: what a VM's process is left with."""

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from qemu_node.host.process import command, identity, pidfd
from qemu_node.host.process.command import Child
from qemu_node.host.process.privileges import launcher_argv

PATIENCE_S = 60.0
UID = 200_007
SLEEP = ("sleep", "600")


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Launch a command and return once the launcher has become it."""
    children: list[Child] = []
    words = os.open(tmp_path / "words", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def launch(
        argv: Sequence[str] = SLEEP,
        *,
        uid: int | None = None,
        groups: Sequence[int] = (),
        cgroup_procs: Path | None = None,
        umask: int = 0o077,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        launcher = launcher_argv(
            argv, uid=uid, gid=uid, groups=groups, cgroup_procs=cgroup_procs, umask=umask
        )
        child = command.spawn(launcher, stderr_fd=words, pass_fds=pass_fds)
        children.append(child)
        deadline = time.monotonic() + PATIENCE_S
        while identity.command_line(child.process.pid) != list(argv):
            assert child.exit_status() is None, (tmp_path / "words").read_text()
            assert time.monotonic() < deadline, "the launcher did not become the program"
            time.sleep(0.01)
        return child

    yield launch
    os.close(words)
    for child in children:
        pidfd.send_signal(child.process, signal.SIGKILL)
        while child.exit_status() is None:
            time.sleep(0.01)


def status(child: Child) -> dict[str, str]:
    text = Path(f"/proc/{child.process.pid}/status").read_text()
    return {
        key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }


def core_limit(child: Child) -> list[str]:
    limits = Path(f"/proc/{child.process.pid}/limits").read_text().splitlines()
    return next(line for line in limits if "core file" in line).split()[4:6]


@pytest.mark.needs_root
def test_a_launched_process_has_its_user_and_groups_and_no_rights(
    launched: Callable[..., Child],
) -> None:
    facts = status(launched(uid=UID, groups=[104, 105]))
    assert facts["Uid"].split() == [str(UID)] * 4
    assert facts["Gid"].split() == [str(UID)] * 4
    assert facts["Groups"].split() == ["104", "105"]
    assert facts["NoNewPrivs"] == "1"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(facts[name], 16) == 0, name


@pytest.mark.needs_root
def test_without_groups_none_of_ours_are_kept(launched: Callable[..., Child]) -> None:
    assert status(launched(uid=UID))["Groups"] == ""


@pytest.mark.parametrize("uid", [None, pytest.param(UID, marks=pytest.mark.needs_root)])
def test_pid_umask_core_limit_and_oom_score_are_set_on_the_process_that_was_spawned(
    uid: int | None, launched: Callable[..., Child]
) -> None:
    child = launched(uid=uid, umask=0o027)
    assert identity.is_alive(child.process)
    assert status(child)["Umask"] == "0027"
    assert status(child)["NoNewPrivs"] == "1"
    assert core_limit(child) == ["0", "0"]
    assert Path(f"/proc/{child.process.pid}/oom_score_adj").read_text().strip() == "0"


def test_our_own_oom_score_is_not_inherited(launched: Callable[..., Child]) -> None:
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text()
    # The agent's is -1000, which only CAP_SYS_RESOURCE may set; any other shows the same.
    own.write_text("500")
    try:
        child = launched()
    finally:
        own.write_text(before)
    assert Path(f"/proc/{child.process.pid}/oom_score_adj").read_text().strip() == "0"


def test_without_root_the_user_stays_and_nothing_can_be_gained(
    launched: Callable[..., Child],
) -> None:
    facts = status(launched())
    assert facts["Uid"].split() == [str(os.getuid())] * 4
    assert facts["NoNewPrivs"] == "1"
    assert int(facts["CapInh"], 16) == 0


@pytest.mark.needs_root
def test_a_launcher_run_by_an_ordinary_user_works_without_a_uid(
    launched: Callable[..., Child],
) -> None:
    # An ordinary user, made by the launcher itself, runs the launcher again.
    inner = launcher_argv(SLEEP, uid=None)
    outer = launcher_argv(inner, uid=UID, gid=UID)
    null = os.open(os.devnull, os.O_RDWR)
    child = command.spawn(outer, stderr_fd=null)
    os.close(null)
    deadline = time.monotonic() + PATIENCE_S
    while identity.command_line(child.process.pid) != list(SLEEP):
        assert child.exit_status() is None, "the launcher ended"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert status(child)["Uid"].split() == [str(UID)] * 4
    pidfd.send_signal(child.process, signal.SIGKILL)
    while child.exit_status() is None:
        time.sleep(0.01)


@pytest.mark.parametrize("uid", [None, pytest.param(UID, marks=pytest.mark.needs_root)])
def test_inherited_descriptors_are_kept(
    uid: int | None, launched: Callable[..., Child], tmp_path: Path
) -> None:
    ours, theirs = socket.socketpair()
    child = launched(uid=uid, pass_fds=[theirs.fileno()])
    target = (Path(f"/proc/{child.process.pid}/fd") / str(theirs.fileno())).readlink()
    assert str(target).startswith("socket:")
    ours.close()
    theirs.close()


@pytest.mark.needs_root
def test_a_set_uid_program_gives_nothing_back(launched: Callable[..., Child]) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        set_uid = Path(name) / "sleep"
        shutil.copy(sleep, set_uid)
        set_uid.chmod(0o4755)
        facts = status(launched([str(set_uid), "600"], uid=UID))
    assert facts["Uid"].split() == [str(UID)] * 4


@pytest.mark.needs_root
async def test_a_step_that_fails_ends_the_launch_with_its_reason() -> None:
    argv = launcher_argv(SLEEP, uid=UID, gid=UID, cgroup_procs=Path("/no/such/cgroup.procs"))
    with pytest.raises(command.ProcessError, match=r"/no/such/cgroup\.procs"):
        await command.run(argv)
    argv = launcher_argv(["/no/such/qemu"], uid=UID, gid=UID)
    with pytest.raises(command.ProcessError, match="/no/such/qemu"):
        await command.run(argv)
