from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qemu_node.errors import MissingPartError
from qemu_node.host.process.command import Completed, ProcessError
from qemu_node.qemu.accel import qemubinary
from qemu_node.qemu.accel.qemubinary import find_qemu, parse_version
from qemu_node.qemu.spec import DiskAio, QemuVersion


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright…", (7, 2, 22)),
        ("QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\n", (10, 0, 13)),
        ("warning: …\nQEMU emulator version 9.1\n", (9, 1, 0)),
    ],
)
def test_version_is_read(text: str, version: tuple[int, int, int]) -> None:
    major, minor, micro = version
    assert parse_version(text) == QemuVersion(major=major, minor=minor, micro=micro)


@pytest.mark.parametrize("text", ["", "GNU bash, version 5.2", "QEMU emulator version x"])
def test_output_of_another_program_is_refused(text: str) -> None:
    with pytest.raises(MissingPartError, match="not a QEMU"):
        parse_version(text)


class Tool:
    """Stands in for `run` of `host.process.command`: answers `--version` and counts."""

    def __init__(self, answer: str | ProcessError) -> None:
        self.answer = answer
        self.calls = 0

    async def run(self, argv: Sequence[str], **_: Any) -> Completed:
        self.calls += 1
        if isinstance(self.answer, ProcessError):
            raise self.answer
        return Completed(returncode=0, stdout=self.answer.encode(), stderr=b"")


def _upgrade(path: Path) -> None:
    path.write_text("upgraded")


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    path = tmp_path / "qemu-system-x86_64"
    path.write_text("")
    path.chmod(0o755)
    return path


async def test_version_is_asked_once_until_the_binary_changes(
    binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = Tool("QEMU emulator version 10.0.13\n")
    monkeypatch.setattr(qemubinary, "run", tool.run)
    first = await find_qemu(str(binary))
    assert await find_qemu(str(binary)) == first
    assert tool.calls == 1
    _upgrade(binary)
    tool.answer = "QEMU emulator version 10.1.0\n"
    assert (await find_qemu(str(binary))).version == QemuVersion(major=10, minor=1)


async def test_qemu_that_is_not_installed_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(MissingPartError, match="not installed") as info:
        await find_qemu(str(tmp_path / "absent"))
    assert info.value.hint == "apt install qemu-system-x86"


async def test_qemu_that_is_too_old_is_refused(
    binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemubinary, "run", Tool("QEMU emulator version 5.2.0\n").run)
    with pytest.raises(MissingPartError, match=r"is QEMU 5\.2\.0; VMs need 7\.2\.0"):
        await find_qemu(str(binary))


async def test_qemu_that_does_not_start_says_why(
    binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = ProcessError([str(binary)], "failed with exit code 127", "libfoo.so: not found")
    monkeypatch.setattr(qemubinary, "run", Tool(failure).run)
    with pytest.raises(MissingPartError, match=r"does not start.*libfoo\.so: not found"):
        await find_qemu(str(binary))


@pytest.mark.parametrize("switch", ["1\n", "2\n"])
def test_io_uring_is_left_alone_where_the_host_restricts_it(
    tmp_path: Path, switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "io_uring_disabled"
    path.write_text(switch)
    monkeypatch.setattr(qemubinary, "_IO_URING_DISABLED", path)
    assert qemubinary.choose_aio() is DiskAio.THREADS
