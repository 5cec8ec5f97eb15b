import asyncio
import json
import os
from pathlib import Path

import pytest
from fakes.cached_images import URL, fill, images

from qemu_node.cli.errortext import EXIT_INTERRUPTED
from qemu_node.cli.image import pull as imagepull
from qemu_node.cli.image.pull import mark_of, progress_line
from qemu_node.cli.main import main
from qemu_node.errors import HostError
from qemu_node.images.download.pull import Pulled
from qemu_node.images.store.store import ImageStore
from qemu_node.units import MIB

Output = pytest.CaptureFixture[str]


def test_pull_pins_on_request_and_shows_what_came(
    store: ImageStore, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pull(*_args: object) -> Pulled:
        return Pulled(version=fill(store), note="the source is down")

    monkeypatch.setattr(imagepull, "_pull", pull)
    assert main(["image", "pull", "--pin", URL]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("debian.raw  sha256:")
    assert output.err == "note: the source is down\n"
    assert images(store)[0].is_pinned
    assert main(["image", "pull", "--json", URL]) == 0
    assert json.loads(capsys.readouterr().out)["note"] == "the source is down"


def test_pull_that_is_interrupted_says_how_to_go_on(
    root: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pull(*_args: object) -> Pulled:
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    monkeypatch.setattr(imagepull, "_pull", pull)
    assert main(["image", "pull", URL]) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted; repeat the command to go on\n"


def test_pull_of_a_path_is_refused(root: Path, capsys: Output) -> None:
    assert main(["image", "pull", "local/disk.qcow2"]) == 1
    assert "is a path" in capsys.readouterr().err


def test_progress_without_a_terminal_is_a_line_each_tenth() -> None:
    marks = [mark_of(done * MIB, 200 * MIB) for done in range(201)]
    assert len(set(marks)) == 11
    assert mark_of(99 * MIB, None) < mark_of(100 * MIB, None)
    assert progress_line(50 * MIB, 200 * MIB) == "25 % of 200.0 MiB"
    assert progress_line(150 * MIB, None) == "150.0 MiB"


def test_a_cache_that_may_not_be_written_is_answered_with_what_to_do(
    root: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pull(*_args: object) -> Pulled:
        await asyncio.sleep(0)
        raise HostError("cannot make it: Permission denied")

    monkeypatch.setattr(imagepull, "_pull", pull)
    monkeypatch.setattr(os, "access", lambda *_: False)
    for uid, advice in ((0, "\n"), (1000, "; for the cache of root's driver, run this as root (`")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        assert main(["image", "pull", URL]) == 1
        said = capsys.readouterr().err
        assert f" hint: make it writable, or set paths.data in node.toml{advice}" in said
