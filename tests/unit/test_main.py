import sys
from collections.abc import Callable

import pytest

from qemu_node.__main__ import main
from qemu_node.errors import HostError
from qemu_node.nomad.driver import vmplugin


@pytest.fixture
def start_as_nomad_does(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], int]:
    def start(error: BaseException | None) -> int:
        def run_driver(**settings: object) -> None:
            assert settings == {"config_path": None, "stop_with_parent": False}
            if error is not None:
                raise error

        monkeypatch.setattr(vmplugin, "run_driver", run_driver)
        monkeypatch.setattr(sys, "argv", ["qemu-node", "driver"])
        return main()

    return start


def test_the_driver_that_nomad_starts_imports_nothing_of_the_command(
    start_as_nomad_does: Callable[[BaseException | None], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("click", "rich", "qemu_node.cli.main", "qemu_node.cli.errortext"):
        monkeypatch.setitem(sys.modules, name, None)
    assert start_as_nomad_does(None) == 0


def test_an_error_of_the_driver_looks_as_every_commands(
    start_as_nomad_does: Callable[[BaseException | None], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert start_as_nomad_does(HostError("no place", hint="make one")) == 1
    assert capsys.readouterr().err == "error: no place\n hint: make one\n"
    assert start_as_nomad_does(KeyboardInterrupt()) == 130
