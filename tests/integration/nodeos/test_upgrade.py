"""`qemu-node os upgrade` with a program that does what Elemental does, and real file systems.

The node's root is a directory; the images are ext4 in files, mounted to be checked. What must hold
however an upgrade ends: the next boot takes a whole image, and the next upgrade works.
"""

import json
import os
import shutil
import signal
import subprocess  # noqa: TID251 - the command is run as people run it
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.nodeos import FakeNode

from qemu_node.nodeos.bootloader import boot_files
from qemu_node.nodeos.ledger.history import read_history
from qemu_node.nodeos.ledger.refusals import Refusal, refuse
from qemu_node.nodeos.snapshots.record import read_record

pytestmark = pytest.mark.needs_root

_ROOT = Path(__file__).parents[3]
NEW = "sha256:" + "e" * 64
NEWER = "sha256:" + "f" * 64
_REPOSITORY = "oci:registry.example/nomad-qemu-node"


class Node:
    """An installed node that runs snapshot 1."""

    def __init__(self, root: Path) -> None:
        self.fake = FakeNode.installed(root / "node")
        self.paths = self.fake.paths
        self.root = self.fake.root
        image = root / "image"
        (image / "etc").mkdir(parents=True)
        (image / "usr/lib").mkdir(parents=True)
        (image / "usr/lib/os-release").write_text("IMAGE_TAG=v2\nIMAGE_ID=nomad-qemu-node\n")
        (image / "etc/os-release").symlink_to("../usr/lib/os-release")
        (image / "usr/lib/precious").write_bytes(b"precious" * 100)
        self.paths.os_release.write_text("IMAGE_TAG=v1\nIMAGE_EPOCH=1764000000\n")
        program = self.paths.elemental
        program.parent.mkdir(parents=True)
        program.write_text(
            f'#!/bin/sh\nPYTHONPATH={_ROOT}/src:{_ROOT}/tests FAKE_ELEMENTAL="$(cat {root}/fault)" '
            f'exec {sys.executable} -m fakes.elemental_cli {self.root} "$@"\n'
        )
        program.chmod(0o755)
        self._fault = root / "fault"
        self.fault("")
        self.config = root / "node.toml"
        self.config.write_text("")

    def fault(self, text: str) -> None:
        """Say what goes wrong in the next upgrade."""
        self._fault.write_text(text)

    def argv(self, *arguments: str) -> list[str]:
        return [
            sys.executable, "-m", "qemu_node", "--config", str(self.config),
            "os", "--root", str(self.root), *arguments,
        ]  # fmt: skip

    def os(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.argv(*arguments), check=False, capture_output=True, text=True, timeout=120
        )

    def upgrade(self, digest: str = NEW, *options: str) -> "subprocess.CompletedProcess[str]":
        return self.os("upgrade", "--system", f"{_REPOSITORY}@{digest}", *options)


@pytest.fixture(scope="module")
def loop_devices(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where an image cannot be mounted, as in most containers."""
    place = tmp_path_factory.mktemp("loop")
    image, target = place / "image", place / "target"
    target.mkdir()
    with image.open("wb") as file:
        file.truncate(1 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    mount = ["mount", "-o", "ro,loop", str(image), str(target)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no loop device can be mounted here")
    subprocess.run(["umount", str(target)], check=True)


@pytest.fixture
def node(tmp_path: Path, loop_devices: None) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    subprocess.run(["umount", "-q", made.paths.run / "new"], check=False)


def test_an_upgrade_installs_beside_the_running_system(node: Node) -> None:
    done = node.upgrade()
    assert done.returncode == 0, done.stderr
    assert "runs after a restart" in done.stdout
    assert node.fake.active == 2
    assert node.fake.passives == [1]
    assert node.fake.state_active() == [2]
    record = read_record(node.paths.snapshots / "2")
    assert record is not None
    assert (record.tag, record.digest) == ("v2", NEW)
    assert node.fake.boot() == ("active", 2)
    assert [event.event for event in read_history(node.paths)] == ["installed"]


def test_the_same_image_is_not_installed_twice(node: Node) -> None:
    assert node.upgrade().returncode == 0
    again = node.upgrade()
    assert again.returncode == 0
    assert "runs after a restart" in again.stdout
    assert node.fake.numbers == [1, 2]
    # The recovery system is asked for by name.
    recovery = node.upgrade(NEW, "--recovery", "--json")
    assert json.loads(recovery.stdout)["installed"], recovery.stderr
    node.fake.boot()
    # It must pass the check first.
    assert node.os("note").returncode == 0
    assert "has not passed its health check" in node.upgrade(NEWER).stderr
    assert node.os("settle").returncode == 0
    assert "runs already" in node.upgrade().stdout


def test_a_damaged_copy_is_found_before_it_is_booted(node: Node) -> None:
    node.fault("damage")
    done = node.upgrade()
    assert done.returncode == 1
    assert node.fake.active == 1
    assert node.fake.numbers == [1]
    assert "the new image is damaged on the disk: /usr/lib/precious" in done.stderr
    assert node.fake.boot() == ("active", 1)
    assert not node.fake.has_health_check
    assert [event.event for event in read_history(node.paths)][-1] == "failed"


_STEPS = ("chroot hook", "image", "no link", "link", "boot list")


@pytest.mark.parametrize("step", ["hooked", "checked"])
def test_an_upgrade_that_fails_leaves_the_running_system(node: Node, step: str) -> None:
    node.fault(f"fail:{step}")
    done = node.upgrade()
    assert done.returncode == 1
    assert f"upgrade command failed: {step}" in done.stderr
    assert node.fake.numbers == [1]
    assert node.fake.boot() == ("active", 1)
    assert not node.fake.has_health_check
    assert node.fake.state_active() == [1]
    node.fault("")
    assert node.upgrade().returncode == 0


@pytest.mark.parametrize("step", _STEPS)
def test_elemental_killed_at_any_step_leaves_a_node_that_boots_and_upgrades(
    node: Node, step: str
) -> None:
    node.fault(f"cut:{step}")
    done = node.upgrade()
    assert done.returncode == 1
    assert "SIGKILL" in done.stderr
    assert node.fake.numbers == [1]
    assert node.fake.active == 1
    assert node.fake.passives == []
    assert not list(node.paths.snapshots.glob("removed-*"))
    node.fault("")
    assert node.upgrade().returncode == 0
    assert node.fake.active == 2


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_command_can_be_stopped_at_any_time(node: Node, signal_: signal.Signals) -> None:
    """Ctrl-C and a stop undo; after SIGKILL the next command does."""
    node.fault("hang:image")
    argv = node.argv("upgrade", "--system", f"{_REPOSITORY}@{NEW}")
    command = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    assert command.stderr is not None
    for line in command.stderr:
        if line.strip() == "image":
            break
    command.send_signal(signal_)
    command.communicate(timeout=60)
    assert command.returncode != 0
    if signal_ is signal.SIGKILL:
        _end_elemental(node)
        assert node.os("clean").returncode == 0
    assert node.fake.numbers == [1]
    assert node.fake.boot() == ("active", 1)
    node.fault("")
    assert node.upgrade().returncode == 0


def test_an_automatic_upgrade_can_be_stopped(node: Node) -> None:
    """As by a stop of its unit, or a shutdown."""
    node.fault("hang:image")
    source = f"{_REPOSITORY.removeprefix('oci:')}@{NEW}"
    node.config.write_text(
        f'[os]\nautomatic = true\nlock = ""\nwindow = "Mon-Sun 00:00-24:00"\nsource = "{source}"\n'
    )
    command = subprocess.Popen(
        node.argv("automatic"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert command.stdout is not None
    for line in command.stdout:
        if line.strip() == "image":
            break
    command.send_signal(signal.SIGTERM)
    rest, _ = command.communicate(timeout=60)
    assert command.returncode not in (0, -signal.SIGTERM), rest
    assert node.fake.numbers == [1]
    assert node.fake.active == 1


def _end_elemental(node: Node) -> None:
    """End the program that a killed command has left: it hangs."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(node.root) in words and b"fakes.elemental_cli" in words:
            os.kill(int(entry.name), signal.SIGKILL)


def test_the_hooks_are_called_as_the_image_calls_them(node: Node) -> None:
    assert node.os("hook", "before-upgrade").returncode == 0
    node.fake.add(2, data=b"half")
    assert node.os("hook", "before-upgrade").returncode == 0
    assert node.fake.numbers == [1]
    done = node.os("hook", "after-upgrade")
    assert done.returncode == 1
    assert "no unfinished snapshot" in done.stderr
    assert node.os("hook", "nonsense").returncode == 1


def test_a_refused_image_is_not_installed_unless_forced(node: Node) -> None:
    refuse(node.paths, Refusal(digest=NEW, tag="v2", reason="it did not boot", at="today"))
    done = node.upgrade()
    assert done.returncode == 1
    assert "it did not boot" in done.stderr
    assert "--force" in done.stderr
    assert node.fake.numbers == [1]
    assert node.upgrade(NEW, "--force").returncode == 0
    assert node.fake.active == 2
    assert "no image is refused" in node.os("refused").stderr


def test_a_rollback_stays_and_refuses_what_was_left(node: Node) -> None:
    assert node.upgrade().returncode == 0
    node.fake.boot()
    assert node.os("note").returncode == 0
    assert node.os("settle").returncode == 0
    done = node.os("rollback")
    assert done.returncode == 0, done.stderr
    assert "the next boot takes snapshot 1" in done.stdout
    assert node.fake.boot() == ("active", 1)
    assert node.os("note").returncode == 0
    assert node.fake.boot() == ("active", 1)
    assert not node.fake.has_health_check
    assert NEW in node.os("refused").stdout
    assert node.upgrade().returncode == 1
    assert node.os("refused", "--clear", NEW[:20]).returncode == 0
    assert node.upgrade().returncode == 0


def test_what_an_operator_sees(node: Node) -> None:
    assert node.upgrade().returncode == 0
    shown = node.os("status")
    assert shown.returncode == 0, shown.stderr
    assert "v2 (snapshot 2)" in shown.stdout
    assert "running, good" in shown.stdout
    told = json.loads(node.os("status", "--json").stdout)
    assert (told["snapshot"], told["active"], told["warnings"]) == (1, 2, [])
    assert "installed" in node.os("history").stdout


def test_two_upgrades_at_once_are_refused(node: Node) -> None:
    node.fault("hang:image")
    argv = node.argv("upgrade", "--system", f"{_REPOSITORY}@{NEW}")
    first = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    for line in first.stderr:
        if line.strip() == "image":
            break
    second = node.upgrade(NEWER)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert second.returncode == 1
    assert "another command is changing this node's system" in second.stderr


@pytest.fixture
def small_state(node: Node, tmp_path: Path) -> Iterator[Node]:
    """A node whose state partition is a real file system without room."""
    disk = tmp_path / "state.img"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
    saved = tmp_path / "saved"
    shutil.copytree(node.paths.state, saved, symlinks=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(node.paths.state)], check=True)
    try:
        shutil.copytree(saved, node.paths.state, symlinks=True, dirs_exist_ok=True)
        yield node
    finally:
        subprocess.run(["umount", "-l", str(node.paths.state)], check=True)


def test_a_full_state_partition_refuses_the_upgrade_and_changes_nothing(small_state: Node) -> None:
    before = sorted(path.name for path in small_state.paths.snapshots.iterdir())
    done = small_state.upgrade()
    assert done.returncode == 1
    assert "the state partition has" in done.stderr
    assert sorted(path.name for path in small_state.paths.snapshots.iterdir()) == before
    assert "boot_assessment_check" not in small_state.fake.grub


def test_a_read_only_state_partition_is_writable_only_while_it_must_be(small_state: Node) -> None:
    state = str(small_state.paths.state)
    subprocess.run(["mount", "-o", "remount,ro", state], check=True)
    done = small_state.os("clean")
    assert done.returncode == 0, done.stderr
    assert os.statvfs(state).f_flag & os.ST_RDONLY


def test_an_upgrade_waits_for_one_that_was_started_beside_us(node: Node) -> None:
    """By /usr/bin/elemental, whose snapshot would be a left-over."""
    half = node.paths.snapshots / "2/snapshot.workDir"
    half.mkdir(parents=True)
    program = str(node.paths.elemental)
    other = subprocess.Popen(
        [program, "-c", "import time; print(flush=True); time.sleep(60)", "upgrade"],
        executable=sys.executable,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout is not None
        other.stdout.readline()
        for done in (node.upgrade(), node.os("hook", "before-upgrade"), node.os("clean")):
            assert done.returncode == 1
            assert f"process {other.pid}" in done.stderr
        assert half.exists()
    finally:
        other.kill()
        other.communicate()
    done = node.upgrade()
    assert done.returncode == 0, done.stderr


@pytest.fixture
def boot_partition(node: Node, tmp_path: Path) -> Iterator[Path]:
    """The node's ESP as a real file system, with the boot loader of its installation."""
    disk = tmp_path / "esp.img"
    with disk.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
    esp = node.paths.efi
    variables = node.paths.grub_oem_env.read_bytes()
    subprocess.run(["mount", "-o", "loop", str(disk), str(esp)], check=True)
    try:
        node.paths.grub_oem_env.write_bytes(variables)
        for boot_file in boot_files():
            source = node.root.parent / "image" / boot_file.source
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text(f"new {source.name}")
            (esp / boot_file.target).parent.mkdir(parents=True, exist_ok=True)
            (esp / boot_file.target).write_text("old")
        subprocess.run(["mount", "-o", "remount,ro", str(esp)], check=True)
        yield esp
    finally:
        subprocess.run(["umount", "-l", str(esp)], check=True)


def _boot_loader(esp: Path) -> set[str]:
    return {(esp / file.target).read_text().partition(" ")[0] for file in boot_files()}


def test_the_boot_loader_is_replaced_if_that_is_asked_for(node: Node, boot_partition: Path) -> None:
    assert node.upgrade().returncode == 0
    assert _boot_loader(boot_partition) == {"old"}
    done = node.upgrade(NEW, "--bootloader")
    assert done.returncode == 0, done.stderr
    assert _boot_loader(boot_partition) == {"new"}
    assert [path.name for path in boot_partition.rglob(".tmp-*")] == []


def test_a_damaged_image_gives_the_node_no_boot_loader(node: Node, boot_partition: Path) -> None:
    node.fault("damage")
    assert node.upgrade(NEW, "--bootloader").returncode == 1
    assert _boot_loader(boot_partition) == {"old"}


def test_the_boot_partition_takes_each_change_at_once(node: Node, boot_partition: Path) -> None:
    """It has no journal: what was not written out when the power fails is lost, or half of it."""
    assert node.os("hook", "before-upgrade").returncode == 0
    options = subprocess.run(
        ["findmnt", "-n", "-o", "OPTIONS", str(boot_partition)],
        check=True, capture_output=True, text=True,
    ).stdout.strip().split(",")  # fmt: skip
    assert {"rw", "sync"} <= set(options)
