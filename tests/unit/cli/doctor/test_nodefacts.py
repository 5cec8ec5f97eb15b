import os
import resource
from pathlib import Path

import pytest
from fakes.published import make_record, publish

from qemu_node.cli.doctor import nodefacts
from qemu_node.cli.doctor.checks import KsmFacts, Level, UidRange
from qemu_node.config.node import NodeConfig, Paths
from qemu_node.host.files.lock import FileLock
from qemu_node.nomad.plugin.handshake import lock_path, plugins_dir
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(run=str(tmp_path / "r"), data=str(tmp_path / "d"))


def test_a_directory_that_is_missing_is_judged_by_the_one_it_would_be_made_in(
    tmp_path: Path,
) -> None:
    facts = nodefacts.look_at_directory(tmp_path / "a" / "b")
    assert (facts.exists, facts.is_writable) == (False, True)
    assert facts.space is not None
    assert facts.space.free_bytes
    assert not (tmp_path / "a").exists()


def test_a_file_in_the_place_of_a_directory_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    facts = nodefacts.look_at_directory(tmp_path / "data")
    assert (facts.exists, facts.is_writable, facts.space) == (False, False, None)


def test_controllers_are_read_where_cgroup_v2_is_mounted(tmp_path: Path) -> None:
    assert nodefacts.read_controllers(tmp_path) is None
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    assert nodefacts.read_controllers(tmp_path) == ["cpu", "memory"]


def test_ksm_is_read_where_the_kernel_has_it(tmp_path: Path) -> None:
    assert nodefacts.read_ksm(tmp_path) is None
    for name, value in (("run", "1"), ("pages_to_scan", "100"), ("sleep_millisecs", "20")):
        (tmp_path / name).write_text(f"{value}\n")
    facts = KsmFacts(is_running=True, pages_to_scan=100, sleep_millisecs=20)
    assert nodefacts.read_ksm(tmp_path) == facts
    # 2: stop, and unmerge everything (Documentation/admin-guide/mm/ksm.rst).
    (tmp_path / "run").write_text("2\n")
    seen = nodefacts.read_ksm(tmp_path)
    assert seen is not None
    assert not seen.is_running


def test_only_ranges_are_read_from_subuid() -> None:
    text = "alice:100000:65536\n\n# comment\nbob:x:1\ncarol:1:2:3\n1000:165536:65536\n"
    assert nodefacts.parse_subuid(text) == [
        UidRange(owner="alice in /etc/subuid", first=100_000, count=65_536),
        UidRange(owner="1000 in /etc/subuid", first=165_536, count=65_536),
    ]


def test_the_users_of_this_host_are_taken_even_without_subuid(tmp_path: Path) -> None:
    assert any(user.first == 0 for user in nodefacts.taken_uids(tmp_path / "absent"))


def test_the_limit_of_open_files_is_that_of_the_driver_which_lives(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qemu_node.cli.doctor.nodefacts.node_config.default_paths", lambda: paths)
    root = plugins_dir(paths.run_dir)
    living, killed = root / str(os.getpid()), root / "1"
    for plugin in (living, killed):
        plugin.mkdir(parents=True)
        lock_path(plugin).touch()
    assert "started from here" in nodefacts.look_at_open_files(paths).detail
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (999, hard))
        with FileLock(lock_path(living)):
            assert "the driver may open 999" in nodefacts.look_at_open_files(paths).detail
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_wrong_node_toml_is_a_failure_and_the_rest_is_judged_with_the_defaults(
    tmp_path: Path,
) -> None:
    path = tmp_path / "node.toml"
    for text, named in (
        ("[qemu]\nacelerator = 'kvm'\n", "acelerator"),
        ("[images]\nallow_networks = ['loopback']\n", "images.allow_networks"),
        ("[images]\nsources = ['https://']\n", "images.sources"),
    ):
        path.write_text(text)
        config, check = nodefacts.read_config(path)
        assert check.level is Level.FAIL
        assert named in check.detail
        assert config == NodeConfig()


def test_leftovers_are_what_the_driver_would_remove_and_what_runs_without_one(
    paths: Paths,
) -> None:
    running = make_record(paths, "run-000000000001")
    ended = make_record(paths, "end-000000000002", start_time=1)
    abandoned = make_record(paths, "old-000000000003", alloc_dir="/nonexistent")
    Path(running.alloc_dir).mkdir(parents=True)
    for record in (running, ended, abandoned):
        publish(paths, record)
    VMDirectory.of(paths, "torn-000000000004").create_data()
    newer = publish(paths, make_record(paths, "new-000000000005"))
    newer.state_file.write_text('{"version": 99}')
    found = nodefacts.find_leftovers(paths)
    assert sorted(found.removable) == ["old-000000000003", "torn-000000000004"]
    assert found.unmanaged == ["run-000000000001"]
    assert found.unreadable == ["new-000000000005"]


def test_what_a_driver_holds_is_no_leftover(paths: Paths) -> None:
    directory = VMDirectory.of(paths, "web-000000000001")
    directory.create_data()
    lock = DirectoryLock.try_acquire(directory.data)
    assert lock is not None
    try:
        assert nodefacts.find_leftovers(paths).removable == []
    finally:
        lock.release()
