import errno

import pytest

from qemu_node.errors import MissingPartError
from qemu_node.host.process import command
from qemu_node.host.process.command import ProcessError


def test_an_error_carries_the_tools_last_words_on_one_line() -> None:
    error = ProcessError(["/usr/bin/qemu-img", "x"], "failed with exit code 1", "one\n  two\n")
    assert str(error) == "qemu-img failed with exit code 1: one two"
    long = ProcessError(["t"], "failed", "x" * 10_000)
    assert len(str(long)) < 2100


@pytest.mark.parametrize("reason", [FileNotFoundError, PermissionError])
async def test_a_tool_that_is_not_there_is_a_missing_part(
    reason: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise reason(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.raises(MissingPartError, match="cannot start qemu-img: No such file"):
        await command.run(["qemu-img"])
    with pytest.raises(MissingPartError, match="cannot start qemu: No such file"):
        command.spawn(["qemu"], stderr_fd=2)


async def test_a_start_that_the_kernel_refuses_is_worth_a_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.raises(ProcessError, match="could not be started") as caught:
        await command.run(["qemu-img"])
    assert caught.value.retry
