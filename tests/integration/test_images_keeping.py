"""The image cache kept in order by several processes at once, some of which are killed.

No QEMU: what is shown is that a VM's base is there from the link on.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from fakes.image_server import ImageServer, Resource
from fakes.stored_images import put
from integration import crashing_cache
from integration.vmnode import VMNode

from qemu_node.config.images import ImagesConfig
from qemu_node.errors import NodeError
from qemu_node.host.concurrency.cancellation import Undo
from qemu_node.host.process import command, pidfd
from qemu_node.images.errors import ImageGoneError
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.store.eviction import Reason
from qemu_node.images.store.store import ImageStore, RemovalStep, SwapStep
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory
from qemu_node.vm.start.steps import ClaimedDirectory, Start
from qemu_node.vm.start.vmfiles import take_image

pytestmark = pytest.mark.timeout(300)

V1, V2 = b"1" * 4096, b"2" * 4096
BIG = os.urandom(1 << 20) * 4
SETTINGS = ImagesConfig(low_space="0%", allow_networks=("127.0.0.0/8",), ttl="0s")
STARTS = 1000
REMOVALS = 50
WAIT_S = 120.0

SWEEPER = """
import random, sys, time
from pathlib import Path
from qemu_node.config.images import ImagesConfig
from qemu_node.images.keeper import ImageKeeper

images_dir, stop, removals = map(Path, sys.argv[1:4])
keeper = ImageKeeper(images_dir, images_dir.parent / "vm", ImagesConfig(low_space="0%"))
with removals.open("a") as log:
    while not stop.exists():
        print(len(keeper.sweep(everything=True)), file=log, flush=True)
        time.sleep(random.uniform(0.0, 0.001))
"""


@pytest.fixture
async def server() -> AsyncGenerator[ImageServer]:
    async with ImageServer.running() as server:
        yield server


@pytest.fixture
async def node(short_tmp_path: Path) -> AsyncGenerator[VMNode]:
    node = VMNode(short_tmp_path, short_tmp_path / "no-image", images=SETTINGS)
    yield node
    await node.close()


@pytest.fixture
def keeper(node: VMNode) -> ImageKeeper:
    return node.node.keeper


@pytest.fixture
def store(node: VMNode) -> ImageStore:
    return ImageStore(node.paths.images_dir)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def take_base(node: VMNode, url: str, task: str = "vm", checksum: str | None = None) -> Path:
    """Do the steps of a start up to the base image, and return that."""
    request = replace(node.request(task=task), image=url, checksum=checksum)
    directory = VMDirectory.of(node.paths, request.identity.vm_id)
    directory.create_data()
    lock = DirectoryLock.try_acquire(directory.data)
    assert lock is not None
    async with Undo() as undo:
        start = Start(request=request, tell=lambda *_: None, undo=undo)
        taken = await take_image(
            start, ClaimedDirectory(files=directory, lock=lock), node.node.images, WAIT_S
        )
        taken.image.close()
    lock.release()
    assert taken.base.path == directory.base
    return directory.base


def image_command(node: VMNode, *words: str) -> list[str]:
    """Return the command line of `qemu-node image`, for a process of its own."""
    config = node.root / "node.toml"
    config.write_text(
        f'[paths]\nrun = "{node.paths.run}"\ndata = "{node.paths.data}"\n'
        '[images]\nallow_networks = ["127.0.0.0/8"]\nttl = "0s"\n'
    )
    return [sys.executable, "-m", "qemu_node", "--config", str(config), "image", *words]


async def test_removal_that_races_with_starts_never_takes_a_base(
    node: VMNode, server: ImageServer, store: ImageStore, tmp_path: Path
) -> None:
    url = server.publish("/x.raw", V1)
    checksum = f"sha256:{hashlib.sha256(V1).hexdigest()}"
    stop, removals = tmp_path / "stop", tmp_path / "removals"
    removals.touch()
    sweeper = [sys.executable, "-c", SWEEPER, *map(str, (store.root, stop, removals))]
    store.prepare()
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(command.run(sweeper, timeout_s=280))
        try:
            started = 0
            # Both sides have had their turns, however fast either is.
            while started < STARTS or sum(map(int, removals.read_text().split())) < REMOVALS:
                # Where every try lost the race, Nomad starts the task again.
                with contextlib.suppress(ImageGoneError):
                    base = await take_base(node, url, checksum=checksum)
                    assert base.read_bytes() == V1
                    started += 1
                shutil.rmtree(node.paths.vm_data_dir)
        finally:
            stop.touch()


@pytest.mark.parametrize("step", SwapStep)
async def test_new_version_whose_placing_was_killed_comes_with_the_next_start(
    node: VMNode, server: ImageServer, store: ImageStore, keeper: ImageKeeper, step: SwapStep
) -> None:
    url = server.publish("/x.raw", V1)
    old = await take_base(node, url, "old")
    server.publish("/x.raw", V2)
    await crash(store, f"swap {step}", "pull", url)
    keeper.sweep()
    assert old.read_bytes() == V1
    [image] = keeper.images()
    assert image.blob.sha256 == hashlib.sha256(V1).hexdigest()
    assert (await take_base(node, url, "new")).read_bytes() == V2
    shutil.rmtree(old.parent)
    keeper.sweep()
    [image] = keeper.images()
    assert image.blob.sha256 == hashlib.sha256(V2).hexdigest()
    assert_tidy(store)


@pytest.mark.parametrize("step", RemovalStep)
async def test_image_whose_removal_was_killed_can_be_had(
    node: VMNode, server: ImageServer, store: ImageStore, keeper: ImageKeeper, step: RemovalStep
) -> None:
    url = server.publish("/x.raw", V1)
    base = await take_base(node, url, "old")
    await crash(store, f"removal {step}", "remove")
    assert base.read_bytes() == V1
    keeper.sweep()
    assert (await take_base(node, url, "new")).read_bytes() == V1
    shutil.rmtree(node.paths.vm_data_dir)
    keeper.sweep()
    assert_tidy(store)
    keeper.sweep(everything=True)
    assert keeper.images() == []
    assert_tidy(store)


async def crash(store: ImageStore, point: str, *action: str) -> None:
    argv = [sys.executable, crashing_cache.__file__, str(store.root), point, *action]
    with pytest.raises(NodeError) as error:
        await command.run(argv, timeout_s=120)
    assert "SIGKILL" in str(error.value)


def assert_tidy(store: ImageStore) -> None:
    """See that nothing is there but whole images and their records."""
    records = store.known_sources()
    assert {blob.path.name for blob in store.blobs()} == {r.blob_name for r in records.values()}
    assert len(list(store.blobs_dir.iterdir())) == len(store.blobs())
    assert len(list(store.sources_dir.iterdir())) == len(records)
    assert list(store.partials_dir.iterdir()) == []


async def test_command_and_driver_make_one_download(
    node: VMNode, server: ImageServer, keeper: ImageKeeper
) -> None:
    resource = Resource(body=V1, pause_at=1024, etag='"1"')
    url = server.put("/x.raw", resource)
    async with asyncio.TaskGroup() as group:
        pulling = group.create_task(command.run(image_command(node, "pull", "--pin", url)))
        await asyncio.wait_for(server.arrived.wait(), WAIT_S)
        starting = group.create_task(take_base(node, url))
        keeper.sweep()
        resource.resume.set()
    assert starting.result().read_bytes() == V1
    assert b"x.raw  sha256:" in pulling.result().stdout
    bodies = [request for request in server.requests if "if-none-match" not in request.headers]
    assert len(bodies) == 1
    assert keeper.images()[0].is_pinned


async def test_image_in_use_is_refused_to_the_command_and_by_force_leaves_the_vm_its_base(
    node: VMNode, server: ImageServer, keeper: ImageKeeper
) -> None:
    base = await take_base(node, server.publish("/x.raw", V1))
    with pytest.raises(NodeError, match="in use by vm-"):
        await command.run(image_command(node, "rm", "x.raw"))
    await command.run(image_command(node, "rm", "--force", "x.raw"))
    assert keeper.images() == []
    assert base.read_bytes() == V1


async def test_interrupted_pull_says_so_and_goes_on_when_it_is_repeated(
    node: VMNode, server: ImageServer, keeper: ImageKeeper, tmp_path: Path
) -> None:
    resource = Resource(body=BIG, pause_at=2 << 20, etag='"1"')
    url = server.put("/x.raw", resource)
    with (tmp_path / "stderr").open("wb") as stderr:
        # A suite that runs in the background of a shell has its children ignore the signal.
        argv = ["env", "--default-signal=INT", *image_command(node, "pull", url)]
        child = command.spawn(argv, stderr_fd=stderr.fileno())
    partials = node.paths.images_dir / "partial"
    await until(lambda: any(path.stat().st_size >= 1 << 20 for path in partials.glob("*")))
    pidfd.send_signal(child.process, signal.SIGINT)
    await until(lambda: child.exit_status() is not None)
    assert child.exit_status() == 130
    assert "repeat the command" in (tmp_path / "stderr").read_text()
    keeper.sweep()
    resource.resume.set()
    await command.run(image_command(node, "pull", url))
    assert keeper.images()[0].origins == (url,)
    first, second = (request.headers.get("range", "none") for request in server.requests)
    assert first == "none"
    assert second.startswith("bytes=")


async def test_base_is_nobody_s_to_write_but_the_node_s(node: VMNode, server: ImageServer) -> None:
    base = await take_base(node, server.publish("/x.raw", V1))
    info = base.stat()
    assert info.st_mode & 0o777 == 0o444
    assert info.st_uid == os.geteuid()
    assert base.parent.stat().st_mode & 0o022 == 0


async def test_prefetched_image_is_there_before_any_job_asks_and_stays(
    short_tmp_path: Path, server: ImageServer
) -> None:
    url = server.publish("/x.raw", V1)
    settings = msgspec.structs.replace(SETTINGS, prefetch=(url,))
    node = VMNode(short_tmp_path, short_tmp_path / "no-image", images=settings)
    keeper = node.node.keeper
    try:
        node.supervisor.begin()
        await until(lambda: keeper.images() != [])
        assert keeper.sweep(everything=True) == []
        assert keeper.images()[0].is_prefetched
    finally:
        await node.close()


@pytest.mark.needs_root
async def test_full_disk_has_room_again_after_the_next_sweep(
    tmp_path: Path,
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    await command.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)])
    try:
        store = ImageStore(small / "images")
        store.prepare()
        hours_ago = time.time() - 7200
        for key in ("1", "2", "3"):
            blob = store.blob_path(put(store, key, key.encode() * (1 << 20)))
            os.utime(blob, (hours_ago + int(key), hours_ago + int(key)))
        with contextlib.suppress(OSError), (small / "guest").open("wb", buffering=0) as guest:
            while guest.write(bytes(4096)):
                pass
        settings = ImagesConfig(low_space="10%", high_space="40%")
        removed = ImageKeeper(store.root, small / "vm", settings).sweep()
        assert [one.image.origins for one in removed] == [("http://h/1",), ("http://h/2",)]
        assert {one.reason for one in removed} == {Reason.SPACE}
        assert put(store, "4", b"4" * (1 << 20)).url == "http://h/4"
    finally:
        await command.run(["umount", str(small)])
