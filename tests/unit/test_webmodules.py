import base64
import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tools import webmodules
from tools.webmodules import (
    Modules,
    WebModulesError,
    for_browsers,
    is_done,
    locked,
    tarball,
    unpack,
)


def packed(**files: bytes) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def integrity(data: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


@pytest.mark.parametrize("modules", [webmodules.PAGE, webmodules.TESTS], ids=["page", "tests"])
def test_lock_file_names_each_package_that_is_asked_for_with_a_digest(modules: Modules) -> None:
    asked = json.loads(modules.lock.with_name("package.json").read_text())["dependencies"]
    assert asked == {name: version for name, (version, _) in locked(modules).items()}
    assert asked.keys() == modules.taken.keys()


def test_only_files_that_are_served_are_unpacked() -> None:
    data = packed(package__dist__a_mjs=b"", package__install_sh=b"rm", package__LICENSE=b"MIT")
    assert unpack(data, ("dist/*", "LICENSE")) == {"dist/a_mjs": b"", "LICENSE": b"MIT"}


def test_package_that_lacks_a_file_is_an_error() -> None:
    with pytest.raises(WebModulesError, match="has no LICENSE any more"):
        unpack(packed(package__a=b""), ("a", "LICENSE"))


def test_path_out_of_the_package_is_an_error() -> None:
    with pytest.raises(WebModulesError, match="is not taken"):
        unpack(packed(**{"package/../../a": b""}), ("*",))


def test_bare_imports_become_paths_and_source_maps_go() -> None:
    text = 'import{options as n}from"preact";import "./x.mjs";\n//# sourceMappingURL=a.map\n'
    assert for_browsers(text) == (
        'import{options as n}from"../../dist/preact.mjs";import "./x.mjs";\n'
    )


def test_import_of_something_unknown_is_an_error() -> None:
    with pytest.raises(WebModulesError, match="'left-pad'"):
        for_browsers('import pad from "left-pad"')


def test_kept_tarball_is_used_only_if_it_is_the_one_of_the_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Port 9 of loopback: nobody is there.
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
    data = packed(package__a=b"")
    name = hashlib.sha512(data).hexdigest()[:32]
    (tmp_path / f"{name}.tgz").write_bytes(data)
    assert tarball("a", "1.0.0", integrity(data), tmp_path) == data
    (tmp_path / f"{name}.tgz").write_bytes(b"another")
    with pytest.raises(WebModulesError, match="NPM_CONFIG_REGISTRY"):
        tarball("a", "1.0.0", integrity(data), tmp_path)


def test_file_of_another_digest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(package__a=b"")
    asked = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(b"another")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://npm.example/")
    with pytest.raises(WebModulesError, match="nothing was unpacked"):
        tarball("@scope/a", "1.0.0", integrity(data), tmp_path)
    assert asked == ["https://npm.example/@scope/a/-/a-1.0.0.tgz"]
    assert not list(tmp_path.iterdir())


def test_any_change_of_what_is_there_is_found(tmp_path: Path) -> None:
    modules = replace(webmodules.PAGE, target=tmp_path)
    (tmp_path / "a.mjs").write_text("a")
    digest = hashlib.sha256(b"a").hexdigest()
    (tmp_path / "digests.txt").write_text(f"# {webmodules.key()}\n{digest}  a.mjs\n")
    assert is_done(modules)
    (tmp_path / "b.mjs").write_text("b")
    assert not is_done(modules)
    (tmp_path / "b.mjs").unlink()
    (tmp_path / "a.mjs").write_text("b")
    assert not is_done(modules)
