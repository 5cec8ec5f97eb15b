"""The sandboxed qemu-img on images that are sound, damaged, or want more than they should get."""

import dataclasses
import os
import shutil
import stat
from pathlib import Path

import pytest
from fakes.qcow2_images import Qcow2

from qemu_node.errors import MissingPartError
from qemu_node.host.process import command
from qemu_node.host.process.sandbox import Sandbox
from qemu_node.images.errors import ImageStorageError, UnsafeImageError
from qemu_node.images.format import qemuimg
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.format.qemuimg import check_image
from qemu_node.units import GIB, MIB

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is missing")


async def qemu_img(*args: str | Path, check: bool = True) -> command.Completed:
    return await command.run(["qemu-img", *map(str, args)], check=check, timeout_s=20)


async def checked(path: Path) -> None:
    await check_image(path, ImageFormat.QCOW2)


async def make(path: Path, *options: str, size: str = "16M") -> Path:
    await qemu_img("create", "-q", "-f", "qcow2", *options, path, size)
    return path


async def test_a_sound_image_is_fine_and_gets_the_mode_of_a_finished_one(
    short_tmp_path: Path,
) -> None:
    path = await make(short_tmp_path / "image")
    path.chmod(0o600)
    await checked(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o444


async def test_an_image_full_of_data_compressed_and_with_internal_snapshots_is_fine(
    short_tmp_path: Path,
) -> None:
    raw, path = short_tmp_path / "raw", short_tmp_path / "image"
    raw.write_bytes(os.urandom(1 << 20) * 8)
    await qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, path)
    await checked(path)
    path.chmod(0o600)
    await qemu_img("snapshot", "-c", "one", path)
    await checked(path)


async def test_an_image_that_only_leaks_clusters_is_fine(short_tmp_path: Path) -> None:
    path = short_tmp_path / "image"
    image = bytearray(Qcow2().build())
    image += bytes(1 << 16)
    image[(2 << 16) + 8 : (2 << 16) + 10] = b"\0\1"  # a reference to cluster 4, which nobody has
    path.write_bytes(image)
    assert (await qemu_img("check", "-f", "qcow2", path, check=False)).returncode == 3
    await checked(path)


async def test_a_damaged_image_is_refused(short_tmp_path: Path) -> None:
    path = await make(short_tmp_path / "image")
    with path.open("r+b") as file:
        file.seek(2 << 16)
        file.write(bytes(1 << 16))  # the refcounts
    with pytest.raises(UnsafeImageError, match="corrupt"):
        await checked(path)


async def test_what_is_no_qcow2_is_not_probed(short_tmp_path: Path) -> None:
    path = short_tmp_path / "image"
    path.write_bytes(b"KDMV" + bytes(1 << 20))
    with pytest.raises(UnsafeImageError, match="qcow2"):
        await checked(path)


async def test_a_raw_image_has_nothing_to_check(short_tmp_path: Path) -> None:
    await check_image(short_tmp_path / "not even there", ImageFormat.RAW)


async def test_a_backing_file_is_not_opened_even_where_nobody_looked_at_the_header(
    short_tmp_path: Path,
) -> None:
    # Whoever opens a FIFO to read it waits for a writer.
    fifo = short_tmp_path / "fifo"
    os.mkfifo(fifo, 0o666)
    path = await make(short_tmp_path / "image", "-u", "-b", str(fifo), "-F", "raw")
    with pytest.raises(command.ProcessError, match="did not end"):
        await command.run(["qemu-img", "check", "-U", "-f", "qcow2", str(path)], timeout_s=2)
    await checked(path)


@pytest.mark.needs_root
async def test_a_data_file_that_everybody_may_read_is_out_of_reach(short_tmp_path: Path) -> None:
    data = short_tmp_path / "data.raw"
    path = await make(short_tmp_path / "image", "-o", f"data_file={data}")
    data.chmod(0o666)
    assert (await qemu_img("check", "-f", "qcow2", path, check=False)).returncode == 0
    with pytest.raises(UnsafeImageError, match=r"data\.raw': No such file"):
        await checked(path)


async def test_an_image_whose_tables_need_too_much_memory_is_refused(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = dataclasses.replace(qemuimg.LIMITS, memory_bytes=320 * MIB)
    monkeypatch.setattr(qemuimg, "_sandbox", Sandbox(small))
    path = await make(short_tmp_path / "image", "-o", "cluster_size=512")
    await checked(path)
    path.chmod(0o600)
    os.truncate(path, 128 * GIB)
    with pytest.raises(UnsafeImageError, match="allocate memory"):
        await checked(path)


async def test_very_many_leaked_clusters_are_fine(short_tmp_path: Path) -> None:
    # One block of refcounts, in which 32,760 clusters that nobody has are counted.
    leaks = (1 << 15) - 8
    image = bytearray(Qcow2().build())
    image[(2 << 16) + 8 : (2 << 16) + 8 + 2 * leaks] = b"\0\1" * leaks
    path = short_tmp_path / "image"
    path.write_bytes(image)
    os.truncate(path, (4 + leaks) << 16)
    await checked(path)


async def test_links_fifos_and_missing_files_are_not_waited_for(short_tmp_path: Path) -> None:
    os.mkfifo(short_tmp_path / "fifo")
    with pytest.raises(UnsafeImageError, match="regular"):
        await checked(short_tmp_path / "fifo")
    (short_tmp_path / "link").symlink_to("/etc/passwd")
    for name in ("link", "missing"):
        with pytest.raises(ImageStorageError):
            await checked(short_tmp_path / name)


async def test_a_host_without_qemu_img_lacks_a_part(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemuimg, "SAFE_ENV", {"PATH": str(short_tmp_path)})
    with pytest.raises(MissingPartError, match="qemu-img"):
        await checked(short_tmp_path / "image")
