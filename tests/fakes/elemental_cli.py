"""A program that does to a node's files what `elemental upgrade` does, hooks included.

Started by tests as the node's /usr/bin/elemental: `elemental_cli.py ROOT upgrade --system …`. The
"registry" is the directory `image` beside the node's root. `FAKE_ELEMENTAL` says what goes wrong:

    cut:STEP       it is killed after STEP, as by a power cut
    fail:STEP      it fails after STEP, and undoes what Elemental undoes
    damage         the disk loses a file of the new image
    hang:STEP      it waits after STEP for a signal
"""

import asyncio
import os
import shutil
import signal
import subprocess  # noqa: TID251 - a test program
import sys
import time
from pathlib import Path

from fakes.nodeos import FakeNode
from qemu_node.errors import NodeError
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.snapshots import grubenv
from qemu_node.nodeos.upgrade.hooks import run_hook

MAX_SNAPS = 3


class Failure(Exception):
    """The upgrade fails."""


def hook(root: Path, name: str) -> None:
    """Do what the image's yaml calls, in this process: a start of Python takes long."""
    try:
        asyncio.run(run_hook(NodePaths(root), name))
    except NodeError as exc:
        log("error", f"\nerror: {exc.explain()}")
        raise Failure(f"hook {name}") from exc


def log(level: str, words: str) -> None:
    name = {"info": "INFO", "error": "ERRO"}[level]
    sys.stderr.write(f"\x1b[36m{name}\x1b[0m[2026-11-30T10:00:00Z] {words:44} \n")
    sys.stderr.flush()


def upgrade(root: Path, system: str, plan: str) -> None:
    node = FakeNode(root)
    what, _, at = plan.partition(":")

    def done(step: str) -> None:
        log("info", step)
        if step != at:
            return
        if what == "cut":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "hang":
            time.sleep(600)
        if what == "fail":
            raise Failure(step)

    known = node.state_digests()
    hook(root, "before-upgrade")
    number = max(node.numbers, default=0) + 1
    directory = node.paths.snapshots / str(number)
    work = directory / "snapshot.workDir"
    image = directory / "snapshot.img"
    try:
        work.mkdir(parents=True)
        done("started")
        shutil.copytree(root.parent / "image", work, symlinks=True, dirs_exist_ok=True)
        done("copied")
        editenv(node, "boot_assessment_check", "yes")
        done("chroot hook")
        hook(root, "after-upgrade")
        hook(root, "after-upgrade")  # once for the hooks of the new image
        done("hooked")
        make_image(image, work)
        done("image")
        if what == "damage":
            lose_a_file(image)
        shutil.rmtree(work)
        done("no work directory")
        node.paths.active.unlink(missing_ok=True)
        done("no link")
        node.paths.active.symlink_to(f"{number}/snapshot.img")
        done("link")
        passives = [n for n in node.numbers if n != number]
        while len(passives) > MAX_SNAPS - 1:
            oldest = passives.pop(0)
            if oldest != node.booted():
                shutil.rmtree(node.paths.snapshots / str(oldest))
        done("removed")
        node.write_boot_list([n for n in reversed(node.numbers) if n != number])
        done("boot list")
        hook(root, "post-upgrade")
        done("checked")
        digest = system.partition("@")[2]
        kept = {n: d for n, d in known.items() if n in node.numbers}
        node.write_state({**kept, number: digest}, active=number)
        done("state")
    except Failure:
        # Also if it has switched already (Elemental 2.3.2, upgrade.go: CloseTransactionOnError).
        shutil.rmtree(directory, ignore_errors=True)
        raise


def editenv(node: FakeNode, name: str, value: str) -> None:
    grubenv.update(node.paths.grubenv, {name: value, "last_boot_attempt": None})


def make_image(image: Path, tree: Path) -> None:
    with image.open("wb") as file:
        file.truncate(8 << 20)
    argv = ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", str(tree), str(image)]
    subprocess.run(argv, check=True)


def lose_a_file(image: Path) -> None:
    data = image.read_bytes()
    wanted = b"precious" * 100
    at = data.index(wanted)
    image.write_bytes(data[:at] + bytes(len(wanted)) + data[at + len(wanted) :])


def main() -> int:
    root = Path(sys.argv[1])
    system = sys.argv[sys.argv.index("--system") + 1]
    try:
        upgrade(root, system, os.environ.get("FAKE_ELEMENTAL", ""))
    except Failure as exc:
        log("error", f"upgrade command failed: {exc}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
