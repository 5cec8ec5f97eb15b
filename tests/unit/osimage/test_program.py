"""The build program itself: what holds for all that it does, and what it says."""

import os
import runpy
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from osimage.build import __main__ as program
from osimage.build import commands
from osimage.build.artefact import manifest
from osimage.build.artefact.oci import write_layout
from osimage.build.artefact.publish import publish
from osimage.build.commands import give
from osimage.build.errors import BuildError


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a user whose umask is strict, and who may build."""
    monkeypatch.setattr(program, "become_root", lambda _arguments: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_modes_do_not_depend_on_who_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(_request: object) -> list[Path]:
        (tmp_path / "made").mkdir()
        return [tmp_path / "made"]

    monkeypatch.setattr(program, "build", build)
    assert program.main(["rootfs", "--tag=x"]) == 0
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o755


def test_a_file_that_cannot_be_read_or_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cache may be another user's, the disk full, a file of the request missing."""

    def build(_request: object) -> list[Path]:
        return [Path((tmp_path / "absent").read_text())]

    monkeypatch.setattr(program, "build", build)
    assert program.main(["rootfs", "--tag=x"]) == 1
    assert capsys.readouterr().err.startswith("osimage: [Errno 2] No such file or directory: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_build_that_is_ended_undoes_what_it_has_begun(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    undone: list[str] = []

    def build(_request: object) -> list[Path]:
        try:
            signal.raise_signal(number)
        finally:
            undone.append("yes")
        return []

    monkeypatch.setattr(commands, "build", build)
    monkeypatch.setattr(sys, "argv", ["osimage.build", "rootfs", "--tag=x"])
    monkeypatch.delitem(sys.modules, "osimage.build.__main__")
    signals = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {item: signal.signal(item, signal.SIG_DFL) for item in signals}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("osimage.build", run_name="__main__")
    finally:
        for item, handler in before.items():
            signal.signal(item, handler)
    assert ended.value.code == 130
    assert undone == ["yes"]
    assert capsys.readouterr().err == "osimage: ended before it was done\n"


def test_what_is_done_to_a_result_does_not_reach_the_cache(tmp_path: Path) -> None:
    kept, out = tmp_path / "kept.iso", tmp_path / "out"
    kept.write_text("kept")
    out.mkdir()
    given = give(kept, out / "x.iso")
    given.write_text("changed")
    given.chmod(0o600)
    assert kept.read_text() == "kept"
    assert give(kept, out / "x.iso").read_text() == "kept"
    assert [path.name for path in out.iterdir()] == ["x.iso"]


def test_a_directory_of_results_replaces_the_one_before(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "x.oci").mkdir(parents=True)
    (out / "x.oci/old").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/new").write_text("new")
    give(tmp_path / "kept", out / "x.oci")
    assert [path.name for path in out.iterdir()] == ["x.oci"]
    assert [path.name for path in (out / "x.oci").iterdir()] == ["new"]


@pytest.mark.parametrize("tag", ["v1", "v2"])
def test_a_manifest_of_another_image_is_not_published(tag: str, tmp_path: Path) -> None:
    """A build that ended between the two leaves the manifest of the build before."""
    for name in ("before", "now"):
        (tmp_path / f"{name}.gz").write_bytes(name.encode())
        layers = [(tmp_path / f"{name}.gz", "0" * 64)]
        write_layout(tmp_path / name, layers, tag="v1", epoch=0)
    of = tmp_path / ("before" if tag == "v1" else "now")
    document, signature = tmp_path / "m.json", tmp_path / "m.sig"
    document.write_text(manifest.render(of, tag=tag, epoch=0, unpacked_bytes=1))
    signature.touch()
    with pytest.raises(BuildError, match=f"is of {tag}@sha256:"):
        publish(
            tmp_path, tmp_path / "now", document, signature, repository="r.example/x", tag="v1",
            more_tags=(), scratch=tmp_path / "scratch", is_plain_http=False,
        )  # fmt: skip
