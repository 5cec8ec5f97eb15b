import pytest

from qemu_node.qga.allowlist import (
    CommandGroup,
    CommandNotAllowedError,
    check_command,
    commands_in,
    group_of,
)


@pytest.mark.parametrize(
    ("command", "group"),
    [
        ("guest-ping", CommandGroup.READ),
        ("guest-network-get-interfaces", CommandGroup.READ),
        ("guest-shutdown", CommandGroup.DRIVER),
        ("guest-fsfreeze-freeze", CommandGroup.DRIVER),
        ("guest-exec", CommandGroup.EXEC),
        ("guest-set-user-password", CommandGroup.EXEC),
        ("guest-set-time", CommandGroup.EXEC),
    ],
)
def test_command_belongs_to_the_group_that_may_use_it(command: str, group: CommandGroup) -> None:
    assert group_of(command) is group


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
def test_command_of_no_group_is_refused_to_everyone(command: str) -> None:
    assert group_of(command) is None
    with pytest.raises(CommandNotAllowedError, match="is not supported") as caught:
        check_command(command, {})
    assert str(caught.value).isprintable()
    assert not caught.value.retry


def test_no_command_is_in_two_groups() -> None:
    groups = [commands_in(group) for group in CommandGroup]
    assert sum(len(group) for group in groups) == len(frozenset().union(*groups))


def test_group_must_be_among_the_allowed() -> None:
    check_command("guest-ping", {}, allowed=[CommandGroup.READ])
    with pytest.raises(CommandNotAllowedError, match="guest-exec is not allowed for this VM"):
        check_command("guest-exec", {"path": "id"}, allowed=[CommandGroup.READ])


def test_unknown_argument_is_named() -> None:
    check_command("guest-exec", {"path": "id", "arg": [], "capture-output": True})
    with pytest.raises(CommandNotAllowedError, match="guest-ping takes no argument 'x'"):
        check_command("guest-ping", {"x": 1})
