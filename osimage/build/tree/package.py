"""Our own package in the root."""

import shutil
from pathlib import Path

from osimage.build.namespace import REPO, environment, run_in
from osimage.build.stages import Stages, digest_of
from qemu_node.host.process.command import run_blocking

_VENV = "usr/lib/qemu-node/venv"
_COMMAND = """#!/usr/lib/qemu-node/venv/bin/python3 -I
import sys

from qemu_node.__main__ import main

sys.exit(main())
"""
_PLUGIN = """#!/bin/sh
exec /usr/lib/qemu-node/venv/bin/qemu-node driver "$@"
"""


def make_package(stages: Stages) -> Path:
    """Return a directory with the Python packages of the node: ours and those of uv.lock."""
    inputs = [REPO / name for name in ("src", "uv.lock", "pyproject.toml", "README.md")]

    def make(target: Path, scratch: Path) -> None:
        uv = str(REPO / ".tools/bin/uv")
        env = environment()
        requirements = scratch / "requirements.txt"
        run_blocking(
            [uv, "export", "--quiet", "--locked", "--no-emit-project", "--no-dev",
             "--project", str(REPO), "--output-file", str(requirements)],
            env=env, timeout_s=300,
        )  # fmt: skip
        install = [
            uv, "pip", "install", "--quiet", "--no-deps", "--python-version", "3.13",
            "--python-platform", "x86_64-manylinux_2_28", "--target", str(target),
        ]  # fmt: skip
        run_blocking(
            [*install, "--require-hashes", "--only-binary", ":all:", "-r", str(requirements)],
            env=env, timeout_s=600,
        )  # fmt: skip
        run_blocking([uv, "build", "--quiet", "--wheel", "--out-dir", str(scratch), str(REPO)],
                     env=env, timeout_s=300)  # fmt: skip
        (wheel,) = scratch.glob("*.whl")
        run_blocking([*install, str(wheel)], env=env, timeout_s=300)

    return stages.get("package", digest_of(["package 1"], files=inputs), make,
                      about="builds the package of the node")  # fmt: skip


def install_package(package: Path, root: Path) -> None:
    """Install what `make_package` made into `root`."""
    run_in(root, ["python3", "-m", "venv", "--without-pip", f"/{_VENV}"])
    (site,) = (root / _VENV / "lib").glob("python3.*/site-packages")
    shutil.copytree(package, site, dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__", "bin"))  # fmt: skip
    command = root / _VENV / "bin/qemu-node"
    command.write_text(_COMMAND)
    command.chmod(0o755)
    link = root / "usr/bin/qemu-node"
    link.unlink(missing_ok=True)
    link.symlink_to("../lib/qemu-node/venv/bin/qemu-node")
    plugin = root / "usr/lib/nomad/plugins/vm"
    plugin.parent.mkdir(parents=True, exist_ok=True)
    plugin.write_text(_PLUGIN)
    plugin.chmod(0o755)
    run_in(root, ["sh", "-c", "getent group qemu-node >/dev/null || groupadd --system qemu-node"])
