"""The config drive's ISO, read by the tools that a guest's operating system has kin to."""

import shutil
from pathlib import Path

import pytest

from qemu_node.configdrive.content import complete
from qemu_node.configdrive.iso import write_iso
from qemu_node.host.process import command

FILES = {
    "unattend.xml": b"<unattend/>\r\n",
    "openstack/latest/user_data": b"#cloud-config\n",
    "openstack/latest/vendor_data.json": b"{}",
    "openstack/content/0000": bytes(range(256)) * 5000,
    "Ünïcode and spaces/MixedCase.Long.Name.txt": b"x",
    "a/b/c/d/e/f/g/deep": b"deep",
    "x" * 64: b"",
}


@pytest.fixture
def iso(tmp_path: Path) -> Path:
    path = tmp_path / "drive.iso"
    drive = complete(FILES, uuid="6f1c", hostname="web-0", name="web-0")
    write_iso(path, drive.files, None)
    return path


async def output(*argv: str, encoding: str = "utf-8") -> str:
    if shutil.which(argv[0], path=command.SAFE_ENV["PATH"]) is None:
        pytest.skip(f"{argv[0]} is missing")
    return (await command.run(argv)).stdout.decode(encoding)


def expected_paths() -> set[str]:
    return {f"/{path}" for path in FILES} | {"/openstack/latest/meta_data.json"}


async def test_label_is_the_one_that_cloud_init_looks_for(iso: Path) -> None:
    assert await output("blkid", "-o", "value", "-s", "LABEL", str(iso)) == "config-2\n"
    assert await output("blkid", "-o", "value", "-s", "TYPE", str(iso)) == "iso9660\n"


async def test_linux_sees_the_real_names(iso: Path) -> None:
    listed = await output("isoinfo", "-R", "-f", "-i", str(iso))
    assert expected_paths() <= set(listed.splitlines())


async def test_windows_sees_the_real_names(iso: Path) -> None:
    listed = await output(
        "isoinfo", "-J", "-j", "iso8859-1", "-f", "-i", str(iso), encoding="latin-1"
    )
    assert expected_paths() <= set(listed.splitlines())


async def test_content_is_what_was_given(iso: Path, tmp_path: Path) -> None:
    target = tmp_path / "content"
    await output("xorriso", "-osirrox", "on", "-indev", str(iso), "-extract", "/", str(target))
    for path, content in FILES.items():
        assert (target / path).read_bytes() == content
        assert (target / path).stat().st_mode & 0o777 == 0o444
    assert b'"hostname": "web-0"' in (target / "openstack/latest/meta_data.json").read_bytes()


async def test_two_hundred_files_and_32_mib_fit(tmp_path: Path) -> None:
    files = {f"openstack/content/{n:04}": bytes(130 << 10) for n in range(250)}
    write_iso(tmp_path / "large.iso", files, None)
    listed = await output("isoinfo", "-R", "-f", "-i", str(tmp_path / "large.iso"))
    assert {f"/{path}" for path in files} <= set(listed.splitlines())


@pytest.mark.needs_root
async def test_iso_belongs_to_the_vms_user(tmp_path: Path) -> None:
    path = tmp_path / "drive.iso"
    write_iso(path, {"a": b""}, (200_000, 200_001))
    info = path.stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o777) == (200_000, 200_001, 0o400)
