from pathlib import Path

import pytest
from fakes.specs import QEMU_10_0, make_spec

from qemu_node.qemu.cmdline import build_argv
from qemu_node.qemu.process import match_vm_id

_DATA = Path("/data/vm")


def test_process_with_our_command_line_is_recognised() -> None:
    argv = build_argv(make_spec(), "qemu-system-x86_64", QEMU_10_0)
    assert match_vm_id(argv, _DATA) == "web-0123456789ab"


def test_launcher_that_has_yet_to_become_qemu_is_recognised() -> None:
    argv = build_argv(make_spec(), "qemu-system-x86_64", QEMU_10_0)
    launcher = ["/bin/sh", "-c", "…", "launch", "", "0007", "setpriv", "--", *argv]
    assert match_vm_id(launcher, _DATA) == "web-0123456789ab"


def test_vm_of_another_data_directory_is_not_ours() -> None:
    argv = build_argv(make_spec(), "qemu-system-x86_64", QEMU_10_0)
    assert match_vm_id(argv, Path("/srv/vm")) is None


def test_data_directory_with_characters_that_json_escapes_is_recognised() -> None:
    data = Path('/srv/"a\\b, ü"/vm')
    argv = build_argv(
        make_spec(overlay=data / "web-0123456789ab" / "overlay.qcow2", serial_log=Path("/x")),
        "qemu-system-x86_64",
        QEMU_10_0,
    )
    assert match_vm_id(argv, data) == "web-0123456789ab"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["qemu-system-x86_64"],
        ["-name"],
        ["-name", "guest="],
        ["-name", "guest=", "/data/vm//overlay"],
        ["-name", "web-1", "/data/vm/web-1/overlay"],
        ["-name", "guest=web-1"],
        ["-name", "guest=web-1", "/data/vm/web-11/overlay"],
        ["grep", "guest=web-1", "/data/vm/web-1/overlay"],
    ],
)
def test_other_processes_are_left_alone(argv: list[str]) -> None:
    assert match_vm_id(argv, _DATA) is None
