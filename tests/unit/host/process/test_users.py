import os

from qemu_node.host.process.users import pids_of_users


def test_processes_are_found_by_the_user_they_run_as() -> None:
    uid = os.geteuid()
    assert os.getpid() in pids_of_users(range(uid, uid + 1))
    assert os.getpid() not in pids_of_users(range(uid + 1, uid + 1000))
    assert pids_of_users(range(0)) == set()
