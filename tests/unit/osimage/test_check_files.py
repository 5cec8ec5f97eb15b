from pathlib import Path

import pytest

from osimage.check import files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with nothing wrong."""
    root = tmp_path / "root"
    for name in ("boot", "etc", "usr/lib/modules/6.12", "usr/bin", "tmp", "dev"):
        (root / name).mkdir(parents=True)
    (root / "boot/vmlinuz-6.12").touch()
    (root / "boot/vmlinuz").symlink_to("vmlinuz-6.12")
    (root / "boot/initrd-6.12").touch()
    (root / "boot/initrd").symlink_to("initrd-6.12")
    (root / "etc/shadow").write_text("root:*:1::::::\nsshd:!*:1::::::\n")
    return root


def test_a_good_root_has_nothing_wrong(root: Path) -> None:
    checks = (files.one_kernel, files.no_password, files.no_identity, files.no_left_over,
              files.sizes, files.modes)  # fmt: skip
    assert [line for check in checks for line in check(root)] == []


def test_a_second_kernel_is_found(root: Path) -> None:
    (root / "boot/vmlinuz-6.13").touch()
    assert "not one kernel" in files.one_kernel(root)[0]


def test_modules_of_another_kernel_are_found(root: Path) -> None:
    (root / "usr/lib/modules/6.12").rename(root / "usr/lib/modules/6.13")
    assert "not one kernel" in files.one_kernel(root)[0]


def test_a_link_that_leads_nowhere_is_found(root: Path) -> None:
    (root / "boot/initrd-6.12").unlink()
    assert files.one_kernel(root) == ["/boot/initrd is no link to a file beside it"]


@pytest.mark.parametrize("word", ["", "$y$j9T$abc", "x"])
def test_a_password_is_found_also_an_empty_one(root: Path, word: str) -> None:
    (root / "etc/shadow").write_text(f"root:{word}:1::::::\n")
    assert files.no_password(root) == ["the account root has a password"]


@pytest.mark.parametrize("name", ["etc/machine-id", "etc/ssh/ssh_host_rsa_key", "etc/hostname"])
def test_an_identity_is_found(root: Path, name: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).touch()
    assert files.no_identity(root) == [f"/{name} is in the image"]


def test_what_is_left_over_is_found(root: Path) -> None:
    (root / "tmp/x").touch()
    assert files.no_left_over(root) == ["/tmp/x is left over"]


def test_a_file_for_everybody_is_found(root: Path) -> None:
    (root / "etc/x").touch()
    (root / "etc/x").chmod(0o666)
    (root / "tmp").chmod(0o1777)
    assert files.modes(root) == ["/etc/x can be written by everybody"]


def test_a_file_that_is_named_and_not_there_is_found(root: Path, tmp_path: Path) -> None:
    ours = tmp_path / "files"
    ours.mkdir()
    (root / "usr/bin/there").touch()
    (ours / "script").write_text(
        "#!/usr/bin/there\n# /usr/bin/comment\n/usr/bin/there /usr/bin/gone.\n"
        "x=$root/usr/bin/below\n"
    )
    assert files.named_files_exist(root, ours) == ["/script:3: /usr/bin/gone. is not in the image"]


def test_a_page_that_the_image_lacks_is_found(root: Path) -> None:
    directory = root / "usr/share/doc/qemu-node"
    for name in ("docs", "examples"):
        (directory / name).mkdir(parents=True)
    (directory / "docs/os.md").touch()
    found = files.pages_are_there(root)
    assert "there is no /usr/share/doc/qemu-node/docs/cluster.md" in found
    assert not any("os.md" in line for line in found)


def test_a_sample_that_is_no_hcl_is_found(root: Path) -> None:
    (root / "usr/share/nomad").mkdir(parents=True)
    (root / "usr/share/nomad/good.hcl").write_text('data_dir = "/data/nomad"\n')
    (root / "usr/share/nomad/bad.hcl").write_text("client {\n")
    (root / "usr/share/nomad/node.toml").write_text("[paths]\nno_such = 1\n")
    lines = files.samples_parse(root)
    assert len(lines) == 2
    assert lines[0].startswith("/usr/share/nomad/bad.hcl is no HCL")
    assert lines[1].startswith("/usr/share/nomad/node.toml: ")
