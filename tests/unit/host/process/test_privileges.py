from pathlib import Path

import pytest

from qemu_node.host.process.privileges import (
    Isolation,
    ToolLimits,
    confined_argv,
    input_path,
    launcher_argv,
)


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
        open_files=1024,
    )
    # fmt: off
    assert after_script(argv) == [
        "launch", "/sys/fs/cgroup/x.scope/cgroup.procs", "0027", "1024",
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
        "launch", "", "0077", "",
        "setpriv", "--no-new-privs", "--inh-caps=-all", "--", "qemu",
    ]
    # fmt: on


def test_a_process_that_ends_with_us_is_tied_last() -> None:
    argv = launcher_argv(["qemu", "-S"], uid=1, gid=1, ends_with=4242)
    at = argv.index("--pdeathsig")
    assert argv.index("--reuid") < at
    assert argv[at : at + 5] == ["--pdeathsig", "KILL", "--", "/bin/sh", "-c"]
    assert argv[at + 6 :] == ["tied", "4242", "qemu", "-S"]


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


LIMITS = ToolLimits(memory_bytes=1 << 30, cpu_s=30, file_bytes=1 << 20)


def confined(
    isolation: Isolation, uid: int | None, tool: tuple[str, ...] = ("tool",)
) -> tuple[str, list[str]]:
    """Return the steps before the limits, and what follows the script that sets them."""
    argv = confined_argv(tool, isolation=isolation, limits=LIMITS, uid=uid)
    at = argv.index("limit")
    return " ".join(argv[: at - 3]), argv[at:]


def test_a_confined_tool_of_root_gets_namespaces_limits_a_user_and_no_capability() -> None:
    before, after = confined(Isolation.NAMESPACES, 65_533)
    for name in ("--mount", "--net", "--pid", "--kill-child"):
        assert name in before.split()
    assert "--user" not in before.split()
    # fmt: off
    assert after == [
        "limit", "1048576", "30", "2048",
        "setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all",
        "--reuid", "65533", "--regid", "65533", "--clear-groups", "--", "tool",
    ]
    # fmt: on


def test_without_root_a_user_namespace_gives_the_others() -> None:
    before, after = confined(Isolation.USER_NAMESPACE, None)
    assert "--user --map-root-user" in before
    assert "--bounding-set=-all" in after
    assert "--reuid" not in after


def test_without_namespaces_limits_and_user_remain() -> None:
    before, after = confined(Isolation.NONE, 65_533)
    assert before == ""
    assert "--reuid" in after
    assert "--bounding-set=-all" not in confined(Isolation.NONE, None)[1]


def test_the_confined_file_is_found_by_its_descriptor_or_where_it_is_bound() -> None:
    assert input_path(Isolation.NONE) == "/proc/self/fd/0"
    assert input_path(Isolation.NAMESPACES) == input_path(Isolation.USER_NAMESPACE) == "/input"


def test_a_tools_arguments_never_enter_the_confining_scripts() -> None:
    hostile = "$(reboot)'\";\n"
    one = confined_argv([hostile], isolation=Isolation.NAMESPACES, limits=LIMITS, uid=None)
    other = confined_argv(["tool"], isolation=Isolation.NAMESPACES, limits=LIMITS, uid=None)
    assert one[:-1] == other[:-1]
    assert one[-1] == hostile
