from pathlib import Path

import pytest

from qemu_node.errors import HostError
from qemu_node.host.files.atomic import write_atomic
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.settings import datamount
from qemu_node.nodeos.settings.datamount import apply_config, data_disk, remember_disk
from qemu_node.nodeos.setup.disks import Disk, Volume


def _node(root: Path) -> NodePaths:
    paths = NodePaths(root)
    (paths.staged_config / "tls").mkdir(parents=True)
    (paths.staged_config / "client.hcl").write_text("new")
    (paths.staged_config / "node.toml").write_text("new")
    (paths.staged_config / "tls/key.pem").write_text("key")
    paths.data.mkdir()
    return paths


def test_the_installations_configuration_goes_to_the_data_disk_once(tmp_path: Path) -> None:
    paths = _node(tmp_path)
    assert apply_config(paths) == ["client.hcl", "node.toml", "tls/key.pem"]
    assert (paths.config / "tls/key.pem").read_text() == "key"
    assert (paths.config / "tls/key.pem").stat().st_mode & 0o777 == 0o600
    assert (paths.config / "node.toml").stat().st_mode & 0o777 == 0o644
    assert not paths.staged_config.exists()
    assert apply_config(paths) == []


def test_an_earlier_file_of_another_content_is_kept_beside(tmp_path: Path) -> None:
    paths = _node(tmp_path)
    paths.config.mkdir()
    (paths.config / "client.hcl").write_text("old")
    (paths.config / "client.hcl.before-seed").write_text("older")
    (paths.config / "server.hcl").write_text("mine")
    apply_config(paths)
    found = {path.name: path.read_text() for path in paths.config.iterdir() if path.is_file()}
    assert found == {
        "client.hcl": "new",
        "client.hcl.before-seed": "older",
        "client.hcl.before-seed1": "old",
        "node.toml": "new",
        "server.hcl": "mine",
    }


@pytest.mark.parametrize("writes", range(1, 4))
def test_killed_at_any_file_it_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    paths = _node(tmp_path)
    left = writes

    class KilledError(BaseException):
        pass

    def write(*args: object, **kwargs: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KilledError
        real(*args, **kwargs)  # type: ignore[arg-type]

    real = write_atomic
    with monkeypatch.context() as patch:
        patch.setattr(datamount, "write_atomic", write)
        with pytest.raises(KilledError):
            apply_config(paths)
    assert apply_config(paths) == ["client.hcl", "node.toml", "tls/key.pem"]
    assert not list(paths.config.glob("*.before-seed*"))


def test_a_directory_in_the_way_is_named(tmp_path: Path) -> None:
    paths = _node(tmp_path)
    (paths.config / "client.hcl").mkdir(parents=True)
    with pytest.raises(HostError, match=r"client.hcl is a directory"):
        apply_config(paths)
    assert (paths.staged_config / "client.hcl").exists()


def test_the_disk_of_data_is_remembered_by_its_link(tmp_path: Path) -> None:
    link = "/dev/disk/by-id/wwn-0x5"
    one = Disk(
        path="/dev/sda", size_bytes=1, links=(link,),
        volumes=(Volume(path="/dev/sda6", mounts=("/data",)),),
    )  # fmt: skip
    assert data_disk((one, Disk(path="/dev/sdb", size_bytes=1)), "/data") == link
    # A mirror: neither of its disks is the one.
    assert data_disk((one, one), "/data") == ""
    paths = NodePaths(tmp_path)
    paths.oem.mkdir()
    assert remember_disk(paths, link)
    assert not remember_disk(paths, link)
    assert paths.data_disk.read_text() == f"{link}\n"
    assert remember_disk(paths, "")
    assert not paths.data_disk.exists()
