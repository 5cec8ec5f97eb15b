import contextlib
import io
import tarfile
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import ConfigError
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.settings.archive import Saved, collect, pack, unpack
from qemu_node.nodeos.settings.restore import changes, restore
from qemu_node.nodeos.setup.login import hash_password

_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB8v9K3cN9mXhQb0nE4nZ8gq4R3ks0m3Cw1e6V0cXx1L admin"
_NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _node(root: Path) -> NodePaths:
    paths = NodePaths(root)
    for path, text in {
        paths.config / "client.hcl": "client {}",
        paths.config / "tls/key.pem": "key",
        paths.oem / "90_custom.yaml": "name: x",
        paths.oem / "grubenv": "state of this node",
        paths.oem / "ssh/authorized_keys": f"{_KEY}\n",
        paths.own / "uplink.toml": "[uplink]\n",
        paths.own / "host/hostname": "node1\n",
        paths.own / "refused": "state of this node",
        paths.own / "seed.toml": "",
        root / "root/.ssh/authorized_keys": f"no-pty {_KEY}\n",
        root / "etc/ssh/ssh_host_ed25519_key": "host key",
        root / "etc/shadow": "root:*:1::::::\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return paths


def _archive(files: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(data), kind
            tar.addfile(member, io.BytesIO(data))
    packer = zlib.compressobj(wbits=31)
    return packer.compress(plain.getvalue()) + packer.flush()


_MANIFEST = {"node.json": b'{"version": 1, "tag": "v1"}'}


def test_an_archive_has_the_settings_and_nothing_of_the_nodes_state(tmp_path: Path) -> None:
    saved = unpack(pack(collect(_node(tmp_path), "v1")), "x")
    assert sorted(saved.config) == ["client.hcl", "tls/key.pem"]
    assert sorted(saved.oem) == [
        "90_custom.yaml",
        "qemu-node/host/hostname",
        "qemu-node/host/ssh_host_ed25519_key",
        "qemu-node/uplink.toml",
        "ssh/authorized_keys",
    ]
    assert saved.tag == "v1"


def test_what_was_set_by_hand_is_saved_too(tmp_path: Path) -> None:
    paths = _node(tmp_path)
    hashed = hash_password("correct horse")
    (tmp_path / "etc/shadow").write_text(f"root:{hashed}:1::::::\n")
    saved = collect(paths, "v1")
    assert saved.oem["ssh/authorized_keys"].decode() == f"{_KEY}\nno-pty {_KEY}\n"
    assert saved.oem["qemu-node/host/root-password"].decode() == f"root:{hashed}\n"


def test_the_same_configuration_is_the_same_archive(tmp_path: Path) -> None:
    paths = _node(tmp_path)
    assert pack(collect(paths, "v1")) == pack(collect(paths, "v1"))


def test_for_another_node_name_and_host_key_are_left_out(tmp_path: Path) -> None:
    saved = collect(_node(tmp_path), "v1").without_identity()
    assert not [name for name in saved.oem if name.startswith("qemu-node/host/")]


@pytest.mark.parametrize(
    "name",
    [
        "etc/shadow",
        "oem/grubenv",
        "oem/qemu-node/refused",
        "oem/../etc/x.yaml",
        "config/../x",
        "/config/x",
        "config/",
    ],
)
def test_what_no_node_has_saved_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        unpack(_archive(_MANIFEST | {name: b""}), "x")


def test_links_are_refused() -> None:
    with pytest.raises(ConfigError, match="which is no file"):
        unpack(_archive({"config/a": b""}, tarfile.SYMTYPE), "x")


def test_a_sparse_file_of_terabytes_is_refused() -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("config/a")
        member.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 42)}
        tar.addfile(member)
    packer = zlib.compressobj(wbits=31)
    with pytest.raises(ConfigError, match="which is no file"):
        unpack(packer.compress(plain.getvalue()) + packer.flush(), "x")


def _with_password(text: str) -> bytes:
    return _archive(_MANIFEST | {"oem/qemu-node/host/root-password": text.encode()})


def test_no_archive_gives_a_node_an_empty_or_known_password() -> None:
    live = hash_password("elemental")
    for text in ("root:\n", "", "root:hunter2\n", f"admin:{live}\n", f"root:{live}\n", "root:\xff"):
        with pytest.raises(ConfigError, match="no password of the node's own"):
            unpack(_with_password(text), "x")
    own = f"root:{hash_password('correct horse')}\n"
    assert unpack(_with_password(own), "x").oem


def test_what_is_too_large_to_be_restored_is_not_saved(tmp_path: Path) -> None:
    paths = _node(tmp_path)
    with (paths.config / "debian.qcow2").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match=r"seen at .*/debian\.qcow2"):
        collect(paths, "v1")
    (paths.config / "debian.qcow2").unlink()
    for number in range(1000):
        (paths.config / f"{number}.hcl").touch()
    with pytest.raises(ConfigError, match="900 files"):
        collect(paths, "v1")


def test_an_archive_without_end_is_refused() -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(80)) + packer.flush()
    with pytest.raises(ConfigError, match="too large"):
        unpack(bomb, "x")


@pytest.mark.parametrize("data", [b"", b"hello", _archive({}), _archive({"node.json": b"[]"})])
def test_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"x is (no archive|cut off)"):
        unpack(data, "x")


def test_a_later_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="another version"):
        unpack(_archive({"node.json": b'{"version": 2, "tag": ""}'}), "x")


@given(st.data())
def test_a_damaged_archive_is_an_error_for_people(data: st.DataObject) -> None:
    plain = bytearray(zlib.decompress(_archive(_MANIFEST | {"config/a": b"x"}), wbits=31))
    for _ in range(data.draw(st.integers(1, 8))):
        plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
    packer = zlib.compressobj(wbits=31)
    with contextlib.suppress(ConfigError):
        unpack(packer.compress(bytes(plain)) + packer.flush(), "x")


@given(st.binary(max_size=300))
def test_any_bytes_are_an_archive_or_an_error_for_people(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        unpack(data, "x")


def test_a_restoration_makes_the_configuration_exactly_that(tmp_path: Path) -> None:
    saved = collect(_node(tmp_path / "one"), "v1")
    paths = NodePaths(tmp_path / "two")
    (paths.config).mkdir(parents=True)
    (paths.config / "server.hcl").write_text("old")
    paths.own.mkdir(parents=True)
    kept = restore(paths, saved, tag="v2", is_data_mounted=True, now=_NOW)
    assert kept.name == "config-before-20260102T030405.tar.gz"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert unpack(kept.read_bytes(), "x").config == {"server.hcl": b"old"}
    assert collect(paths, "v1").config == saved.config
    assert (paths.own / "host/hostname").read_text() == "node1\n"
    assert (
        changes(collect(paths, "v1"), saved)
        == [
            # The host key that sshd has is in use until the next boot.
        ]
    )


def test_without_data_the_configuration_waits_for_it(tmp_path: Path) -> None:
    saved = Saved(config={"tls/ca.pem": b"pem"})
    paths = NodePaths(tmp_path)
    restore(paths, saved, tag="v1", is_data_mounted=False, now=_NOW)
    assert (paths.staged_config / "tls/ca.pem").read_bytes() == b"pem"
    assert not paths.data.exists()


def test_changes_are_named() -> None:
    now = Saved(config={"a": b"1", "b": b"1", "c": b"1"}, oem={"x.yaml": b"1"})
    wanted = Saved(config={"a": b"1", "b": b"2", "d": b"1"})
    assert changes(now, wanted) == [
        "change /data/config/b",
        "create /data/config/d",
        "remove /data/config/c",
    ]
