import pytest

from qemu_node.qga.allowedcommands import CommandNotAllowedError, check_command


@pytest.mark.parametrize(
    "command",
    [
        "guest-file-open",
        "guest-file-read",
        "guest-suspend-disk",
        "guest-set-vcpus",
        "guest-set-memory-blocks",
        "guest-new-thing",
        "",
        "\x1b[2J",
    ],
)
def test_a_command_that_is_not_on_the_list_is_refused(command: str) -> None:
    with pytest.raises(CommandNotAllowedError, match="is not supported") as caught:
        check_command(command, {})
    assert str(caught.value).isprintable()
    assert not caught.value.retry


def test_unknown_argument_is_named() -> None:
    check_command("guest-exec", {"path": "id", "arg": [], "capture-output": True})
    with pytest.raises(CommandNotAllowedError, match="guest-ping takes no argument 'x'"):
        check_command("guest-ping", {"x": 1})
