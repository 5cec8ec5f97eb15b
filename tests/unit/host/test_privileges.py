from pathlib import Path

import pytest

from qemu_node.host.privileges import launcher_argv


def after_script(argv: list[str]) -> list[str]:
    assert argv[:2] == ["/bin/sh", "-c"]
    return argv[3:]


def test_with_root_the_user_groups_and_capabilities_are_given_up() -> None:
    argv = launcher_argv(
        ["qemu", "-S"],
        uid=200_001,
        gid=200_001,
        groups=[104, 105],
        cgroup_procs=Path("/sys/fs/cgroup/x.scope/cgroup.procs"),
        umask=0o027,
    )
    # fmt: off
    assert after_script(argv) == [
        "launch", "/sys/fs/cgroup/x.scope/cgroup.procs", "0027",
        "setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all",
        "--reuid", "200001", "--regid", "200001", "--groups", "104,105",
        "--", "qemu", "-S",
    ]
    # fmt: on


def test_no_supplementary_group_of_ours_is_kept() -> None:
    assert "--clear-groups" in launcher_argv(["qemu"], uid=200_001, gid=200_001)


def test_without_root_only_what_needs_no_right_is_done() -> None:
    # fmt: off
    assert after_script(launcher_argv(["qemu"], uid=None)) == [
        "launch", "", "0077",
        "setpriv", "--no-new-privs", "--inh-caps=-all", "--", "qemu",
    ]
    # fmt: on


def test_the_script_is_the_same_whatever_the_values() -> None:
    hostile = "$(reboot)'\";\n"
    one = launcher_argv([hostile], uid=None, cgroup_procs=Path(hostile))
    other = launcher_argv(["qemu"], uid=1, gid=1)
    assert one[2] == other[2]
    assert hostile not in one[2]
    assert one[-1] == hostile


def test_a_user_without_group_and_groups_without_user_are_faults_of_the_caller() -> None:
    with pytest.raises(ValueError, match="group"):
        launcher_argv(["qemu"], uid=1)
    with pytest.raises(ValueError, match="groups"):
        launcher_argv(["qemu"], uid=None, groups=[1])
