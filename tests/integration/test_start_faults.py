"""Starts that go wrong: QEMU that dies or talks nonsense, full disks, missing parts, odd names."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.fake_qemu import fake_qemu, fake_qemu_with_qmp
from integration.vmnode import VMNode, until

from qemu_node.config.node import QemuConfig
from qemu_node.errors import HostError, MissingPartError, NodeError
from qemu_node.host.files.space import read_space
from qemu_node.host.process import command
from qemu_node.images.errors import ImageGoneError
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.openimage import CachedImage
from qemu_node.inventory.vms import find_vm
from qemu_node.qemu.spec import FirmwareMode
from qemu_node.vm.names import VM_ID
from qemu_node.vm.record.outcome import FORCED_OFF
from qemu_node.vm.start import qemuprocess, steps, vmfiles
from qemu_node.vm.start.steps import StartStep

pytestmark = pytest.mark.timeout(120)

real_qemu = pytest.mark.needs_qemu


@asynccontextmanager
async def nothing_left(node: VMNode) -> AsyncIterator[None]:
    """See that the block leaves no file, process, zombie or descriptor of a VM."""
    zombies, descriptors = _zombies(), _descriptors()
    yield
    assert node.leftovers() == []
    assert node.running() == set()
    assert _zombies() <= zombies
    # A connection's end is a matter of some turns of the loop. What an earlier test has left to the
    # garbage collector may go meanwhile.
    await until(lambda: _descriptors() - descriptors, lambda new: not new, "end of descriptors", 10)


def _descriptors() -> Counter[str]:
    entries = list(Path("/proc/self/fd").iterdir())
    # Without the descriptor that the listing itself took.
    return Counter(str(entry.readlink()) for entry in entries if entry.is_symlink())


def _zombies() -> set[int]:
    """Return our children that have ended and were not reaped."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] == "Z" and int(fields[1]) == os.getpid():
            found.add(int(entry.parent.name))
    return found


# QEMU that does not do what it should


def node_with(node: VMNode, program: str) -> VMNode:
    """Return a node with another QEMU, which runs as us: another user might not reach Python."""
    return VMNode(node.root, node.image, qemu_program=program, is_root=False)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'could not set up host forwarding rule' >&2; exit 1", "host forwarding rule"),
        ("exit 1", "failed with exit code 1 during the start"),
        ("kill -SEGV $$", "was killed by SIGSEGV during the start"),
        ("exec /nonexistent", "nonexistent"),
        ("head -c 100000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1", "the end"),
    ],
)
async def test_a_qemu_that_ends_during_the_start_is_quoted(
    node: VMNode, short_tmp_path: Path, script: str, words: str
) -> None:
    broken = node_with(node, fake_qemu(short_tmp_path, script))
    async with nothing_left(broken):
        with pytest.raises(HostError, match=words) as caught:
            await broken.start(broken.request())
    assert caught.value.retry
    assert len(str(caught.value)) < 1000
    assert str(caught.value) in broken.words["vm"].decode()


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ({"greeting": "torn"}, "no QMP"),
        ({"greeting": "absent"}, "did not greet"),
        ({"greeting": "late", "greeting_delay_s": 30}, "did not greet"),
        ({"greeting": "garbage"}, "no QMP"),
        ({"greeting": "huge"}, "no QMP"),
        ({"greeting": "hangup"}, "no QMP"),
        ({"negotiation": "error"}, "no QMP"),
        ({"negotiation": "silent"}, "did not greet"),
        ({"silent": ["query-status"]}, "query-status"),
        ({"mid_reply": ["query-status"]}, "query-status"),
        ({"replies": {"query-status": {"status": 7}}}, "query-status"),
        ({"dies": True}, "was killed by SIGSEGV during the start"),
    ],
)
async def test_a_qemu_that_does_not_talk_sense_is_ended(
    node: VMNode,
    short_tmp_path: Path,
    behaviour: dict[str, Any],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The fake takes its time to come up on a busy machine, and must have done so to misbehave.
    monkeypatch.setattr(qemuprocess, "_QMP_TIMEOUT_S", 4.0 if words == "did not greet" else 15.0)
    broken = node_with(node, fake_qemu_with_qmp(short_tmp_path, **behaviour))
    async with nothing_left(broken):
        with pytest.raises(HostError, match=words) as caught:
            await broken.start(broken.request())
    assert caught.value.retry


async def test_a_qemu_that_greets_late_is_waited_for(node: VMNode, short_tmp_path: Path) -> None:
    program = fake_qemu_with_qmp(short_tmp_path, greeting="late", greeting_delay_s=1.5, stray=True)
    slow = node_with(node, program)
    async with nothing_left(slow):
        vm = await slow.start(slow.request())
        assert vm.exit is None
        await slow.supervisor.destroy(vm)


async def test_a_start_cancelled_while_qemu_is_mute_leaves_nothing(
    node: VMNode, short_tmp_path: Path
) -> None:
    mute = node_with(node, fake_qemu_with_qmp(short_tmp_path, greeting="absent"))
    async with nothing_left(mute):
        start = asyncio.ensure_future(mute.start(mute.request()))
        # As root a process is known by its VM's user, which this one does not have.
        logs = mute.paths.vm_data_dir.glob
        await until(lambda: list(logs("*/qemu.log")), bool, "QEMU", 60)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start


# What the host lacks


async def test_a_missing_qemu_is_named_with_its_package(node: VMNode) -> None:
    bare = VMNode(node.root, node.image, qemu=QemuConfig(binary="qemu-system-nothing"))
    async with nothing_left(bare):
        with pytest.raises(MissingPartError) as caught:
            await bare.start(bare.request())
    assert "qemu-system-nothing is not installed" in caught.value.explain()
    assert "apt install qemu-system-x86" in caught.value.explain()
    assert not caught.value.retry


async def test_a_qemu_that_vanished_after_it_was_found_is_named(
    node: VMNode, short_tmp_path: Path
) -> None:
    bare = node_with(node, str(short_tmp_path / "gone"))
    async with nothing_left(bare):
        with pytest.raises(HostError, match="gone"):
            await bare.start(bare.request())


@real_qemu
async def test_missing_firmware_is_named_with_its_package(node: VMNode) -> None:
    bare = VMNode(node.root, node.image, qemu=QemuConfig(firmware_dirs=(str(node.root / "fw"),)))
    async with nothing_left(bare):
        with pytest.raises(MissingPartError) as caught:
            await bare.start(bare.request(firmware=FirmwareMode.SECURE_BOOT))
    assert "no UEFI firmware for secure-boot" in caught.value.explain()
    assert "apt install ovmf" in caught.value.explain()


@pytest.mark.needs_root
@real_qemu
async def test_user_ids_that_are_used_up_are_an_error_that_may_pass(node: VMNode) -> None:
    small = VMNode(node.root, node.image, qemu=QemuConfig(uid_count=1))
    async with nothing_left(small):
        first = await small.start(small.request(task="first"))
        with pytest.raises(HostError, match="all 1 user ids") as caught:
            await small.start(small.request(task="second"))
        assert caught.value.retry
        assert "uid_count" in caught.value.explain()
        assert small.running() == {first.record.vm_id}
        await small.supervisor.destroy(first)
        await small.supervisor.destroy(await small.start(small.request(task="second")))


@pytest.mark.parametrize("directory", ["r", "d"])
async def test_a_directory_that_cannot_be_made_is_named(node: VMNode, directory: str) -> None:
    (node.root / directory).write_text("in the way")
    bare = node_with(node, "/bin/false")
    async with nothing_left(bare):
        with pytest.raises(HostError, match=f"{node.root}/{directory}\\b"):
            await bare.start(bare.request())


# A disk that is full


def fill(path: Path) -> None:
    """Write to `path` until its file system is full."""
    with path.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


class _Filler(logging.Handler):
    """Takes all the space of a file system when a start has come to a step."""

    def __init__(self, directory: Path, step: StartStep) -> None:
        super().__init__()
        self._step = step
        self.path = directory / ".filler"

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "start step" and record.__dict__["step"] == self._step:
            fill(self.path)


@pytest.fixture
async def tiny_disk(node: VMNode) -> AsyncIterator[Path]:
    """A file system of a few megabytes for the VMs' data."""
    path = node.paths.vm_data_dir
    path.mkdir(parents=True)
    await command.run(["mount", "-t", "tmpfs", "-o", "size=8M,mode=0711", "tmpfs", str(path)])
    yield path
    await node.supervisor.destroy_all()
    await command.run(["umount", str(path)])


@pytest.mark.needs_root
@real_qemu
@pytest.mark.parametrize(
    ("step", "path"),
    [
        (StartStep.USER, "/.uid"),
        (StartStep.OVERLAY, "/overlay.qcow2"),
        (StartStep.VARSTORE, "/varstore.fd"),
        (StartStep.CONFIG_DRIVE, "/config-drive.iso"),
        (StartStep.PUBLISH, "/state.json"),
    ],
)
async def test_a_disk_that_is_full_ends_the_start_with_the_name_of_the_file(
    node: VMNode, tiny_disk: Path, step: StartStep, path: str
) -> None:
    filler = _Filler(tiny_disk, step)
    logger = logging.getLogger(steps.__name__)
    level = logger.level
    logger.addHandler(filler)
    logger.setLevel(logging.DEBUG)
    request = node.request(firmware=FirmwareMode.UEFI)
    try:
        async with nothing_left(node):
            with pytest.raises(HostError, match="No space left") as caught:
                await node.start(request)
    finally:
        logger.removeHandler(filler)
        logger.setLevel(level)
    assert path in str(caught.value)
    assert caught.value.retry
    assert "free space" in caught.value.explain()
    filler.path.unlink()
    async with nothing_left(node):
        await node.supervisor.destroy(await node.start(request))


@pytest.mark.needs_root
@real_qemu
async def test_a_full_disk_does_not_keep_a_vm_from_being_asked_to_quit(
    node: VMNode, tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vm = await node.start(node.request())
    fill(tiny_disk / ".filler")
    with caplog.at_level(logging.INFO, "qemu_node.vm.life.machine"):
        await vm.stop(4.0)
    assert vm.exit == FORCED_OFF
    assert "end of VM not written down" in caplog.messages
    failed = [vars(record)["error"] for record in caplog.records if "failed" in record.message]
    assert not any("space" in error for error in failed)


# Names


_LONG = "ä/b c\u3042\N{ROCKET}-é" * 20


@real_qemu
@pytest.mark.parametrize(
    ("job", "group", "task"),
    [
        ("j" * 120, "g" * 120, "t" * 120),
        (_LONG[:120], _LONG[:120].replace("/", " "), "ü" * 120),
        ("a/b/../../c", "group with spaces", "task with spaces, commas=and \"quotes\" and 'more'"),
        ("j,id=x", "g%s{0}", "-leading,dash=on"),
        (" ", "..", "\N{ROCKET}"),
    ],
)
async def test_whatever_names_nomad_allows_a_vm_starts(
    node: VMNode, job: str, group: str, task: str
) -> None:
    request = node.request(task=task)
    identity = msgspec.structs.replace(
        request.identity, job_id=job, job_name=job, group=group, namespace=job
    )
    async with nothing_left(node):
        vm = await node.start(replace(request, identity=identity))
        record = vm.record
        assert VM_ID.fullmatch(record.vm_id)
        assert (record.identity.job_name, record.identity.group, record.identity.task) == (
            job,
            group,
            task,
        )
        for path in (record.sockets.qmp, record.sockets.monitor, record.sockets.vnc):
            assert len(os.fsencode(path)) < 108
            assert Path(path).is_socket()
        assert find_vm(node.paths, record.display_name).record == record
        await node.supervisor.destroy(vm)


@real_qemu
async def test_vms_whose_names_differ_in_one_character_are_two(node: VMNode) -> None:
    tasks = ["t" * 119 + "a", "t" * 119 + "b", "T" * 119 + "a"]
    async with nothing_left(node):
        vms = [await node.start(node.request(task=task)) for task in tasks]
        assert len({vm.record.vm_id for vm in vms}) == 3
        assert len({vm.record.uuid for vm in vms}) == 3
        assert len({vm.record.nics[0].mac for vm in vms}) == 3
        await node.supervisor.destroy_all()


# Failures of what the start uses


async def test_an_image_that_the_cache_removes_is_asked_for_again_and_the_first_is_let_go(
    node: VMNode, short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = short_tmp_path / "d" / "images" / "blob"
    given: list[CachedImage] = []

    async def fetch_image(*_: object) -> CachedImage:
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(bytes(1 << 20))
        given.append(
            CachedImage(
                path=blob,
                fd=os.open(blob, os.O_RDONLY | os.O_CLOEXEC),
                format=ImageFormat.RAW,
                virtual_size_bytes=1 << 20,
                origin="https://example.org/x.img",
                digest="sha256:0",
            )
        )
        if len(given) == 1:
            blob.unlink()
        return given[-1]

    monkeypatch.setattr(vmfiles, "fetch_image", fetch_image)
    fake = node_with(node, fake_qemu_with_qmp(short_tmp_path))
    async with nothing_left(fake):
        vm = await fake.start(fake.request())
        assert len(given) == 2
        assert [image.fd for image in given] == [-1, -1]
        await fake.supervisor.destroy(vm)


async def test_a_start_whose_image_goes_again_and_again_ends_and_keeps_none_open(
    node: VMNode, short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise ImageGoneError("removed")

    fetched: list[CachedImage] = []
    real_fetch = vmfiles.fetch_image

    async def fetch_image(*args: Any) -> CachedImage:
        fetched.append(await real_fetch(*args))
        # As one of the cache's own.
        fetched[-1].digest = "sha256:0"
        return fetched[-1]

    monkeypatch.setattr(vmfiles, "fetch_image", fetch_image)
    monkeypatch.setattr(vmfiles, "link_base", gone)
    fake = node_with(node, fake_qemu_with_qmp(short_tmp_path))
    async with nothing_left(fake):
        with pytest.raises(ImageGoneError):
            await fake.start(fake.request())
    assert len(fetched) > 1
    assert {image.fd for image in fetched} == {-1}


async def test_a_task_log_that_cannot_be_opened_fails_the_start_before_anything_is_made(
    node: VMNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_alloc_dir: Path, _task: str) -> Any:
        raise HostError("cannot open log directory")

    monkeypatch.setattr(node.supervisor, "_open_logs", refuse)
    async with nothing_left(node):
        with pytest.raises(NodeError, match="log directory"):
            await node.start(node.request())


async def test_a_start_is_refused_as_recoverable_while_the_disk_has_only_its_reserve(
    short_tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = VMNode(short_tmp_path, image, disk_reserve="100%")
    asked: list[int] = []
    monkeypatch.setattr(ImageKeeper, "make_room", lambda _self, needed: asked.append(needed))
    with pytest.raises(HostError, match="kept in reserve") as refused:
        await node.start(node.request())
    assert refused.value.retry
    # Images that nobody uses would have gone first.
    assert asked == [read_space(short_tmp_path).total_bytes]
    assert node.leftovers() == []
    await node.close()
