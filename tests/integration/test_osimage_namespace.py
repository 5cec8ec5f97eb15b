"""The build by an ordinary user, who has no range of ids or one of 65536."""

import shutil
import sys
from pathlib import Path

import pytest

from osimage.build.namespace import REPO
from qemu_node.host.process.command import SAFE_ENV, Completed, run_blocking

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(shutil.which("newuidmap") is None, reason="apt install uidmap"),
]

# Become nobody, whose ranges are in the file $1. The mounts end with the command.
_AS_USER = """set -eu
for file in /etc/subuid /etc/subgid; do
    [ -e $file ] || exit 77
    mount --bind "$1" $file
done
shift
exec setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"
"""


def as_user(ranges: str, tmp_path: Path) -> Completed:
    """Run the build program as nobody; it finds that nothing is built, if it comes so far."""
    file = tmp_path / "ranges"
    file.write_text(ranges)
    file.chmod(0o644)
    # The interpreter and this checkout may be in a home directory that only root may enter.
    probe = run_blocking(
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups",
         "test", "-x", sys.executable, "-a", "-r", str(REPO / "osimage")],
        env=SAFE_ENV, check=False,
    )  # fmt: skip
    if probe.returncode != 0:
        pytest.skip("another user may not read this checkout or run its Python")
    done = run_blocking(
        ["unshare", "--mount", "sh", "-c", _AS_USER, "user", str(file), sys.executable,
         "-m", "osimage.build", "publish", "--tag=none", "--out=/nonexistent",
         "--to=registry.example.net/x"],
        env=SAFE_ENV | {"PYTHONPATH": f"{REPO}:{REPO / 'src'}", "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("there is no /etc/subuid")
    return done


def test_a_user_with_a_range_of_ids_becomes_root_of_a_namespace(tmp_path: Path) -> None:
    done = as_user("nobody:1000000:65536\n", tmp_path)
    assert "there is no /nonexistent/nomad-qemu-node-none.oci" in done.stderr.decode()


def test_a_user_without_a_range_is_told_what_is_missing(tmp_path: Path) -> None:
    done = as_user("somebody:1000000:65536\n", tmp_path)
    words = done.stderr.decode()
    assert done.returncode == 1
    assert words.startswith("osimage: cannot make a user namespace: ")
    assert "/etc/subuid" in words
    assert "uidmap" in words
