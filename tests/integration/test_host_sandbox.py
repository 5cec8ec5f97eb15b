"""The sandbox with real tools in it: what they can reach, and where they end."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu_node.host.process import command, identity, pidfd
from qemu_node.host.process.command import Completed, ProcessError
from qemu_node.host.process.privileges import Isolation, ToolLimits, confined_argv, launcher_argv
from qemu_node.host.process.sandbox import SANDBOX_UID, Sandbox
from qemu_node.units import GIB, KIB, MIB

PATIENCE_S = 60.0
LIMITS = ToolLimits(memory_bytes=GIB, cpu_s=20, file_bytes=MIB)
SECRET = "readable by everybody"
ISOLATIONS = [
    pytest.param(Isolation.NAMESPACES, marks=pytest.mark.needs_root),
    pytest.param(Isolation.NONE, marks=pytest.mark.needs_root),
]


def sandbox(isolation: Isolation = Isolation.NAMESPACES, limits: ToolLimits = LIMITS) -> Sandbox:
    made = Sandbox(limits)
    if isolation is Isolation.NONE:
        made._best = isolation
    return made


@pytest.fixture
def file_fd(short_tmp_path: Path) -> Iterator[int]:
    """Return a descriptor of a file of 8 MiB that everybody may read."""
    path = short_tmp_path / "file"
    path.write_bytes(b"content\n" + bytes(8 * MIB))
    path.chmod(0o444)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


async def shell(script: str, file_fd: int, box: Sandbox | None = None, **more: float) -> Completed:
    """Run a script in which $1 is the file."""
    timeout_s = more.get("timeout_s", PATIENCE_S)
    return await (box or sandbox()).run(
        lambda path: ["/bin/bash", "-c", script, "bash", path], file_fd, timeout_s=timeout_s
    )


def running(words: list[str]) -> list[int]:
    """Return the processes with this command line."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if identity.command_line(pid) == words]


async def until_running(words: list[str]) -> int:
    async with asyncio.timeout(PATIENCE_S):
        while not (found := running(words)):
            await asyncio.sleep(0.02)
    return found[0]


async def until_gone(words: list[str]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while running(words):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_a_tool_reads_its_file_and_cannot_write_it(
    isolation: Isolation, file_fd: int
) -> None:
    done = await shell('head -n 1 "$1"; echo x >> "$1"', file_fd, sandbox(isolation))
    assert done.stdout == b"content\n"
    assert done.returncode != 0


@pytest.mark.needs_root
async def test_nothing_but_programs_and_the_file_is_there(
    file_fd: int, short_tmp_path: Path
) -> None:
    secret = short_tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o666)
    done = await shell(f"ls -A /; cat {secret} /proc/self/environ /dev/null", file_fd)
    assert set(done.stdout.decode().split()) <= {
        "bin", "etc", "input", "lib", "lib32", "lib64", "libx32", "sbin", "usr",
    }  # fmt: skip
    assert done.stderr.count(b"No such file") == 3


@pytest.mark.needs_root
async def test_a_tool_reaches_no_network(file_fd: int) -> None:
    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connect = f"exec 3<>/dev/tcp/127.0.0.1/{port}"
        reached = await shell(connect, file_fd, sandbox(Isolation.NONE))
        assert reached.returncode == 0
        done = await shell(connect, file_fd)
    assert done.returncode != 0
    assert b"Network is unreachable" in done.stderr


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_a_tool_has_no_rights_and_is_gone_with_whoever_waits_for_it(
    isolation: Isolation, file_fd: int
) -> None:
    sleep = ["/usr/bin/sleep", f"98{os.getpid()}"]
    run = asyncio.ensure_future(
        sandbox(isolation).run(lambda _path: sleep, file_fd, timeout_s=PATIENCE_S)
    )
    pid = await until_running(sleep)
    status = Path(f"/proc/{pid}/status").read_text()
    facts = {
        key: value.split()
        for key, _, value in (line.partition(":") for line in status.splitlines())
    }
    assert facts["Uid"] == facts["Gid"] == [str(SANDBOX_UID)] * 4
    assert facts["Groups"] == []
    assert facts["NoNewPrivs"] == ["1"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(facts[name][0], 16) == 0, name
    for name in ("net", "pid", "mnt", "ipc"):
        is_ours = (
            Path(f"/proc/{pid}/ns/{name}").readlink() == Path(f"/proc/self/ns/{name}").readlink()
        )
        assert is_ours == (isolation is Isolation.NONE), name
    run.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await run
    await until_gone(sleep)


@pytest.mark.needs_root
async def test_what_a_tool_started_and_hid_is_gone_when_its_time_is_over(file_fd: int) -> None:
    sleep = ["sleep", f"97{os.getpid()}"]
    with pytest.raises(ProcessError, match="did not end within"):
        await shell(f"setsid {' '.join(sleep)} & wait", file_fd, timeout_s=3.0)
    await until_gone(sleep)


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize(
    ("script", "limits", "endings"),
    [
        ("while :; do :; done", ToolLimits(memory_bytes=GIB, cpu_s=1, file_bytes=MIB), {-9}),
        # bash gives up by itself when it cannot have more.
        (
            'x=$(tr "\\0" a < "$1")',
            ToolLimits(memory_bytes=12 * MIB, cpu_s=20, file_bytes=MIB),
            {1, 2, -6, -11},
        ),
        ('cat "$1"', ToolLimits(memory_bytes=GIB, cpu_s=20, file_bytes=64 * KIB), {1, -25}),
    ],
    ids=["cpu", "memory", "output"],
)
async def test_a_tool_ends_at_its_limits(
    isolation: Isolation, script: str, limits: ToolLimits, endings: set[int], file_fd: int
) -> None:
    done = await shell(script, file_fd, sandbox(isolation, limits))
    assert done.returncode in endings, done
    assert len(done.stdout) <= limits.file_bytes
    assert len(done.stderr) <= 4 * KIB


async def test_where_nothing_can_be_unshared_the_tool_runs_within_the_rest(
    file_fd: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        "qemu_node.host.process.privileges._UNSHARE", ("unshare", "--no-such-option")
    )
    box = sandbox()
    for _ in range(2):
        assert (await shell('head -n 1 "$1"', file_fd, box)).stdout == b"content\n"
    assert [record.msg for record in caplog.records if "namespaces" in record.msg] != []
    assert len([record for record in caplog.records if "namespaces" in record.msg]) == 1


@pytest.mark.needs_root
async def test_an_ordinary_user_gets_the_namespaces_too(short_tmp_path: Path) -> None:
    path = short_tmp_path / "file"
    path.write_text("content\n")
    os.chown(path, SANDBOX_UID, SANDBOX_UID)
    path.chmod(0o600)
    inner = confined_argv(
        ["/bin/bash", "-c", "cat /input; ls -A /; echo x > /input"],
        isolation=Isolation.USER_NAMESPACE,
        limits=LIMITS,
        uid=None,
    )
    outer = launcher_argv(inner, uid=SANDBOX_UID, gid=SANDBOX_UID)
    if not await user_namespaces_work():
        pytest.skip("this kernel gives an ordinary user no namespaces")
    with path.open("rb") as file, (short_tmp_path / "out").open("w+b") as out:
        child = command.spawn(outer, stdin_fd=file.fileno(), stderr_fd=out.fileno())
        await pidfd.wait_gone(child.process)
        assert child.exit_status() != 0
    said = (short_tmp_path / "out").read_text()
    assert "content" in said
    assert "proc" not in said.split()
    assert "Read-only file system" in said


async def user_namespaces_work() -> bool:
    unshare = shutil.which("unshare")
    assert unshare is not None
    argv = launcher_argv([unshare, "--user", "--map-root-user", "true"], uid=65_532, gid=65_532)
    return (await command.run(argv, check=False)).returncode == 0
