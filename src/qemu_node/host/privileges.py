"""The launcher's command line: how a process gives up what it does not need before it begins.

Pure. Owns the order of the steps between our spawn and the program: cgroup, umask, limits, user,
capabilities. Does not own starting it (`process.spawn`) nor what the cgroup allows
(`cgroup.Scope`).

Every step ends in exec, so the pid that we spawned is the program's and inherited descriptors stay.
It is a program and not code in our child because that would need a real fork of a process with
gRPC's threads (`preexec_fn`, `user=` and `group=` of `subprocess` all leave its vfork path).
"""

from collections.abc import Sequence
from pathlib import Path

# $1 is cgroup.procs or "", $2 the umask. Nothing is ever put into the text: values are arguments.
# "0" in cgroup.procs is the writer itself (Documentation/admin-guide/cgroup-v2.rst); echo is a
# builtin, so that is the shell. HashiCorp's nomad.service sets OOMScoreAdjust=-1000 for the agent:
# inherited, it would keep QEMU alive and kill the rest of the node, so it is put back to 0, as
# Nomad's exec driver does (drivers/shared/executor/executor_linux_cgo.go, newLibcontainerConfig).
# That can fail only where we were given a positive score, which then is right to keep.
_SCRIPT = """\
set -eu
if [ -n "$1" ]; then echo 0 > "$1"; fi
{ echo 0 > /proc/self/oom_score_adj; } 2> /dev/null || :
umask "$2"
ulimit -c 0
shift 2
exec "$@"
"""


def launcher_argv(
    argv: Sequence[str],
    *,
    uid: int | None,
    gid: int | None = None,
    groups: Sequence[int] = (),
    cgroup_procs: Path | None = None,
    umask: int = 0o077,
) -> list[str]:
    """Return the command line that becomes `argv` with the fewest rights.

    It joins the cgroup, sets the umask, allows no core dump (guest memory would be in it), resets
    the OOM score, then changes user. NoNewPrivs is set and, as root, the capability bounding set
    emptied: no set-uid file gives anything back. A step that fails ends the process with a message
        on stderr.

    Args:
        argv: The program and its arguments.
        uid: The user it runs as; None keeps ours, for a driver without root.
        gid: Its group; needed with `uid`.
        groups: Its supplementary groups, e.g. that of /dev/kvm; only with `uid`.
        cgroup_procs: `cgroup.procs` of the cgroup it joins.
        umask: Of the files that it makes.

    Raises:
        ValueError: `uid` without `gid`, or `groups` without `uid`: a fault of the caller.
    """
    setpriv = ["setpriv", "--no-new-privs", "--inh-caps=-all"]
    if uid is not None:
        if gid is None:
            raise ValueError("a user needs a group")
        # fmt: off
        setpriv += [
            "--bounding-set=-all",
            "--reuid", str(uid),
            "--regid", str(gid),
        ]
        # fmt: on
        setpriv += (
            ["--groups", ",".join(str(group) for group in groups)] if groups else ["--clear-groups"]
        )
    elif groups:
        raise ValueError("only root can set groups")
    procs = "" if cgroup_procs is None else str(cgroup_procs)
    return ["/bin/sh", "-c", _SCRIPT, "launch", procs, f"{umask:04o}", *setpriv, "--", *argv]
