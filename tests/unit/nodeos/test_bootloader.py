from pathlib import Path

import pytest
from fakes.nodeos import PowerCut

from qemu_node.errors import HostError
from qemu_node.nodeos import bootloader
from qemu_node.nodeos.bootloader import boot_files, replace_boot_loader


def _image(root: Path, version: str) -> Path:
    for file in boot_files():
        path = root / file.source
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{version} {path.name}")
    return root


def _esp(root: Path, version: str) -> Path:
    for file in boot_files():
        path = root / file.target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{version} {Path(file.source).name}")
    return root


def _versions(efi: Path, directory: str) -> set[str]:
    """Return the versions of the files in a directory; a file that is not whole fails."""
    found = set()
    for file in boot_files():
        if file.target.startswith(directory):
            version, name = (efi / file.target).read_text().split()
            assert name == Path(file.source).name
            found.add(version)
    return found


def test_the_esp_gets_the_images_boot_loader(tmp_path: Path) -> None:
    image, efi = _image(tmp_path / "image", "new"), _esp(tmp_path / "efi", "old")
    assert len(replace_boot_loader(image, efi)) == len(boot_files())
    assert _versions(efi, "EFI/BOOT") == _versions(efi, "EFI/ELEMENTAL") == {"new"}
    assert replace_boot_loader(image, efi) == []


@pytest.mark.parametrize("at", range(len(boot_files())))
def test_a_power_cut_leaves_a_whole_boot_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    image, efi = _image(tmp_path / "image", "new"), _esp(tmp_path / "efi", "old")
    written: list[Path] = []

    def cutting(path: Path, content: bytes, **options: bool) -> None:
        assert options == {"is_durable": True}
        if len(written) == at:
            raise PowerCut
        written.append(path)
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(bootloader, "write_atomic", cutting)
        with pytest.raises(PowerCut):
            replace_boot_loader(image, efi)
    # The firmware boots EFI/ELEMENTAL; if it cannot, EFI/BOOT.
    assert _versions(efi, "EFI/ELEMENTAL") == {"old"} or _versions(efi, "EFI/BOOT") == {"new"}
    replace_boot_loader(image, efi)
    assert _versions(efi, "EFI/BOOT") == _versions(efi, "EFI/ELEMENTAL") == {"new"}


def test_an_image_without_a_boot_loader_changes_nothing(tmp_path: Path) -> None:
    image, efi = _image(tmp_path / "image", "new"), _esp(tmp_path / "efi", "old")
    (image / "etc/elemental/grub.cfg").unlink()
    with pytest.raises(HostError, match=r"grub\.cfg of the image"):
        replace_boot_loader(image, efi)
    assert _versions(efi, "EFI/BOOT") == {"old"}
