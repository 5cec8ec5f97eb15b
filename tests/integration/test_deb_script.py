"""scripts/deb.sh, where what builds is a fake; `e2e/test_deb_package.py` has the real ones."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from qemu_node.host.process.command import Completed, run_blocking

_REPO = Path(__file__).parents[2]

# Makes the chroot.
_MMDEBSTRAP = """for word; do [ "$word" = - ] || target=$word; done
tar -cf "$target" -T /dev/null
"""
# Enters it: the package is built there.
_UNSHARE = """for word; do
    [ ! -d "$word/build/qemu-node" ] || cp "$word/build/qemu-node/docs/os.md" "$word/build/x.deb"
done
"""
_UV = """case $1 in
    --version) echo "uv $(sed -n 's/^uv_version=//p' scripts/setup.sh)" ;;
esac
"""


def wrap(program: Path, script: str) -> None:
    """Make `program` a script."""
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\nset -e\n{script}")
    program.chmod(0o755)


class Build:
    """A checkout with a cache of its own."""

    def __init__(self, directory: Path) -> None:
        self.cache = directory / "cache"
        self.checkout = directory / "checkout"
        self.fakes = directory / "fakes"
        wanted = ("debian", "docs", "examples", "scripts", "src", "tools")
        for name in wanted:
            shutil.copytree(
                _REPO / name, self.checkout / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        files = ("LICENSE", "README.md", "CHANGELOG.md", "uv.lock", "pyproject.toml")
        for name in (*files, "package-lock.json"):
            shutil.copy(_REPO / name, self.checkout)
        # Nothing is fetched for the console's page.
        (self.checkout / "tools/webmodules.py").write_text("")
        wrap(self.fakes / "mmdebstrap", _MMDEBSTRAP)
        wrap(self.fakes / "unshare", _UNSHARE)
        wrap(self.checkout / ".tools/bin/uv", _UV)
        wrap(self.checkout / ".tools/bin/pip", "")

    def run(self, *options: str) -> Completed:
        environment = {
            "PATH": f"{self.fakes}:{os.environ['PATH']}",
            "HOME": str(self.cache),
            "XDG_CACHE_HOME": str(self.cache),
            "MIRROR": "http://mirror.invalid/debian",
        }
        script = str(self.checkout / "scripts/deb.sh")
        return run_blocking([script, *options], env=environment, check=False, timeout_s=300)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    (tmp_path / "cache").mkdir()
    return Build(tmp_path)


def words(done: Completed) -> str:
    return done.stderr.decode(errors="replace")


def test_a_package_is_built_once_and_given_where_it_is_wanted(build: Build, tmp_path: Path) -> None:
    first = build.run("--output", str(tmp_path / "out"))
    assert first.returncode == 0, words(first)
    given = Path(first.stdout.decode().strip())
    assert given == tmp_path / "out/x.deb"
    assert given.stat().st_mode & 0o777 == 0o644
    assert "building" in words(first)
    assert "building" not in words(build.run("--output", str(tmp_path / "out")))


def test_a_package_of_files_that_change_meanwhile_is_not_kept(build: Build) -> None:
    """It would be kept under the hash of the files as they were."""
    page = build.checkout / "docs/os.md"
    before = page.read_bytes()
    wrap(build.checkout / ".tools/bin/uv", f"{_UV}[ $1 != export ] || echo new >>{page}\n")
    done = build.run()
    assert done.returncode == 1
    assert "files have changed since this build began" in words(done)
    wrap(build.checkout / ".tools/bin/uv", _UV)
    page.write_bytes(before)
    again = build.run()
    assert Path(again.stdout.decode().strip()).read_bytes() == before


def test_two_builds_can_give_their_package_to_the_same_directory(
    build: Build, tmp_path: Path
) -> None:
    """The second one does it between two steps of the first."""
    assert build.run().returncode == 0
    out = tmp_path / "out"
    copy = f"""{shutil.which("cp")} "$@"
[ -e {tmp_path}/second ] || {{
    touch {tmp_path}/second
    {build.checkout}/scripts/deb.sh --output {out} >&2
}}
"""
    wrap(build.fakes / "cp", copy)
    done = build.run("--output", str(out))
    assert done.returncode == 0, words(done)
    assert (tmp_path / "second").exists()
    assert [path.name for path in out.iterdir()] == ["x.deb"]


@pytest.mark.needs_root
def test_a_cache_of_another_user_is_named() -> None:
    """Such as one that `sudo make deb` has made."""
    # pytest's own directories are closed to others.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        check_that_nobody_is_told(Build(Path(directory)))


def check_that_nobody_is_told(build: Build) -> None:
    (build.cache / "qemu-node/deb").mkdir(parents=True)
    done = run_blocking(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
         str(build.checkout / "scripts/deb.sh")],
        env={"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(build.cache)}, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"cannot write to {build.cache}/qemu-node/deb; set XDG_CACHE_HOME" in words(done)
