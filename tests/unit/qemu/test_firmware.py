from pathlib import Path
from typing import Any

import pytest
from fakes.firmware import SECURE_FEATURES, FirmwareHost

from qemu_node.errors import HostError, MissingPartError
from qemu_node.qemu.firmware import ensure_varstore, find_firmware
from qemu_node.qemu.spec import FirmwareMode


@pytest.fixture
def host(tmp_path: Path) -> FirmwareHost:
    return FirmwareHost(tmp_path)


def test_secure_boot_takes_firmware_with_enrolled_keys(host: FirmwareHost) -> None:
    host.describe_debian()
    firmware = find_firmware(FirmwareMode.SECURE_BOOT, [host.descriptors])
    assert firmware is not None
    assert firmware.is_secure
    assert firmware.descriptor.name == "40-edk2-x86_64-secure-enrolled.json"
    assert firmware.code.name == "40-edk2-x86_64-secure-enrolled.code.fd"
    assert firmware.varstore_template.name == "40-edk2-x86_64-secure-enrolled.vars.fd"


def test_uefi_takes_firmware_without_secure_boot(host: FirmwareHost) -> None:
    host.describe_debian()
    firmware = find_firmware(FirmwareMode.UEFI, [host.descriptors])
    assert firmware is not None
    assert not firmware.is_secure
    assert firmware.descriptor.name == "60-edk2-x86_64.json"


def test_bios_needs_no_firmware_of_the_host() -> None:
    assert find_firmware(FirmwareMode.BIOS, []) is None


def test_missing_firmware_names_the_package_and_each_reason(host: FirmwareHost) -> None:
    host.describe("50-edk2-x86_64-secure", ["requires-smm", "secure-boot"])
    with pytest.raises(MissingPartError, match=r"50-edk2.*lacks enrolled-keys") as info:
        find_firmware(FirmwareMode.SECURE_BOOT, [host.descriptors, host.root / "absent"])
    assert info.value.hint == "apt install ovmf"


def test_earlier_directory_overrides_a_descriptor_of_the_same_name(
    host: FirmwareHost, tmp_path: Path
) -> None:
    host.describe_debian()
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "40-edk2-x86_64-secure-enrolled.json").write_text("")
    with pytest.raises(MissingPartError, match="empty: it hides"):
        find_firmware(FirmwareMode.SECURE_BOOT, [etc, host.descriptors])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"interface-types": ["bios"]}, "no UEFI"),
        ({"targets": [{"architecture": "aarch64", "machines": ["virt-*"]}]}, "not for q35"),
        ({"targets": [{"architecture": "x86_64", "machines": ["microvm"]}]}, "not for q35"),
        ({"mapping": {"device": "memory", "filename": "/x"}}, "memory in mode split"),
        ({"mapping": {"device": "flash", "mode": "stateless"}}, "in mode stateless"),
        ({"mapping": {"device": "flash"}}, "names no executable"),
        ({"mapping": "flash"}, "malformed"),
        ({"interface-types": None}, "malformed"),
    ],
)
def test_descriptor_that_does_not_fit_is_skipped_with_its_reason(
    host: FirmwareHost, changes: dict[str, Any], reason: str
) -> None:
    host.describe("40-edk2", SECURE_FEATURES, **changes)
    with pytest.raises(MissingPartError, match=reason):
        find_firmware(FirmwareMode.SECURE_BOOT, [host.descriptors])


@pytest.mark.parametrize(
    ("filename", "image_format", "reason"),
    [
        ("/absent/OVMF_CODE.fd", "raw", "does not exist"),
        ("OVMF_CODE.fd", "raw", "no absolute path"),
        ("/usr/share/edk2/OVMF_CODE.qcow2", "qcow2", "is qcow2, not raw"),
        ("/a\0b", "raw", "does not exist"),
    ],
)
def test_descriptor_of_an_unusable_file_is_skipped(
    host: FirmwareHost, filename: str, image_format: str, reason: str
) -> None:
    file = {"filename": filename, "format": image_format}
    mapping = {"device": "flash", "executable": file, "nvram-template": file}
    host.describe("40-edk2", SECURE_FEATURES, mapping=mapping)
    with pytest.raises(MissingPartError, match=reason):
        find_firmware(FirmwareMode.SECURE_BOOT, [host.descriptors])


@pytest.mark.parametrize("text", ["{", "[]", "\xff\xfe", "[" * 100_000, '{"mapping": {}}'])
def test_malformed_descriptor_does_not_hide_a_good_one(host: FirmwareHost, text: str) -> None:
    host.describe_debian()
    (host.descriptors / "10-broken.json").write_text(text, encoding="latin-1")
    (host.descriptors / "20-directory.json").mkdir()
    assert find_firmware(FirmwareMode.SECURE_BOOT, [host.descriptors]) is not None


def test_varstore_is_a_private_copy_of_the_template(host: FirmwareHost, tmp_path: Path) -> None:
    template, dest = Path(host.file("template.fd")), tmp_path / "varstore.fd"
    ensure_varstore(template, dest, None)
    assert dest.read_bytes() == template.read_bytes()
    assert dest.stat().st_mode & 0o777 == 0o600


def test_varstore_that_the_guest_has_written_is_kept(host: FirmwareHost, tmp_path: Path) -> None:
    dest = tmp_path / "varstore.fd"
    dest.write_bytes(b"the guest's")
    ensure_varstore(Path(host.file("template.fd")), dest, None)
    assert dest.read_bytes() == b"the guest's"


def test_template_that_cannot_be_read_leaves_no_varstore(tmp_path: Path) -> None:
    dest = tmp_path / "varstore.fd"
    with pytest.raises(HostError, match="cannot read varstore template"):
        ensure_varstore(tmp_path / "absent.fd", dest, None)
    assert not dest.exists()
