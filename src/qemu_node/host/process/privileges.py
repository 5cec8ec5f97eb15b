"""The launchers' command lines: how a process drops its privileges before the program begins.

Pure. Owns the order of the steps between our spawn and the program: cgroup, umask, limits,
namespaces, user, capabilities. Does not own starting it (`command`, `sandbox`) nor what the
cgroup allows (`cgroup.Scope`).

`launcher_argv` is for QEMU, which lives long and needs its files: every step ends in exec, so the
pid that we spawned is the program's, and inherited descriptors stay. `confined_argv` is for a short
tool that reads one hostile file and needs nothing else of the host.

They are programs, not code in our child: that would need a real fork of a process with gRPC's
threads (with `preexec_fn`, `user=` or `group=`, `subprocess` does not use vfork).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

# $1 is cgroup.procs or "", $2 the umask, $3 the soft limit of open files or "". Values are always
# arguments, never part of the script. "0" in cgroup.procs is the writer itself
# (Documentation/admin-guide/cgroup-v2.rst); echo is a builtin, so that is the shell. HashiCorp's
# nomad.service sets OOMScoreAdjust=-1000 for the agent: inherited, it would keep QEMU alive and
# kill the rest of the node, so it is put back to 0, as Nomad's exec driver does
# (drivers/shared/executor/executor_linux_cgo.go, newLibcontainerConfig). That can fail only if we
# were given a positive score, which is right to keep. An ignored signal stays ignored after exec
# (man 2 execve): a write beyond the file size limit fails instead of killing QEMU.
_SCRIPT = """\
set -eu
if [ -n "$1" ]; then echo 0 > "$1"; fi
{ echo 0 > /proc/self/oom_score_adj; } 2> /dev/null || :
umask "$2"
ulimit -c 0
trap '' XFSZ
if [ -n "$3" ]; then ulimit -S -n "$3"; fi
shift 3
exec "$@"
"""

# $1 is the process whose end shall end this one. It may have ended before setpriv asked for the
# signal.
_TIED = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'


def launcher_argv(
    argv: Sequence[str],
    *,
    uid: int | None,
    gid: int | None = None,
    groups: Sequence[int] = (),
    cgroup_procs: Path | None = None,
    umask: int = 0o077,
    open_files: int | None = None,
    ends_with: int | None = None,
) -> list[str]:
    """Return the command line that becomes `argv` with the fewest privileges.

    It joins the cgroup, sets the umask, allows no core dump (guest memory would be in it), ignores
    SIGXFSZ, resets the OOM score, then changes user. NoNewPrivs is set and, as root, the
    capability bounding set is emptied: no set-uid file gives a privilege back. A step that fails
    ends the process with a message on stderr.

    Args:
        argv: The program and its arguments.
        uid: The user it runs as; None keeps our own, for a driver without root.
        gid: Its group; needed with `uid`.
        groups: Its supplementary groups, e.g. that of /dev/kvm; only with `uid`.
        cgroup_procs: `cgroup.procs` of the cgroup it joins.
        umask: Of the files that it makes.
        open_files: Its soft limit of open files; ours by default.
        ends_with: Our pid, for a process that must not outlive us: the kernel kills it when the
            thread that started it ends (PR_SET_PDEATHSIG, man 2 prctl).

    Raises:
        ValueError: `uid` without `gid`, or `groups` without `uid`: a bug in the caller.
    """
    setpriv = [*_SETPRIV]
    if uid is not None:
        if gid is None:
            raise ValueError("a user needs a group")
        setpriv += [_NO_CAPABILITIES, *_become(uid, gid, groups)]
    elif groups:
        raise ValueError("only root can set groups")
    procs = "" if cgroup_procs is None else str(cgroup_procs)
    limit = "" if open_files is None else str(open_files)
    steps = ["/bin/sh", "-c", _SCRIPT, "launch", procs, f"{umask:04o}", limit]
    if ends_with is None:
        return [*steps, *setpriv, "--", *argv]
    # setpriv must ask for the signal last: a change of user cancels it.
    tied = ["--pdeathsig", "KILL", "--", "/bin/sh", "-c", _TIED, "tied", str(ends_with)]
    return [*steps, *setpriv, *tied, *argv]


_SETPRIV = ("setpriv", "--no-new-privs", "--inh-caps=-all")
_NO_CAPABILITIES = "--bounding-set=-all"


def _become(uid: int, gid: int, groups: Sequence[int] = ()) -> list[str]:
    """Return setpriv's options for another user."""
    ids = ["--reuid", str(uid), "--regid", str(gid)]
    if not groups:
        return [*ids, "--clear-groups"]
    return [*ids, "--groups", ",".join(str(group) for group in groups)]


class Isolation(StrEnum):
    """What keeps a confined program from the rest of the host."""

    NAMESPACES = "namespaces"
    """A network, a process table and a root directory of its own; made by root."""
    USER_NAMESPACE = "user-namespace"
    """The same inside a user namespace, which most kernels allow an ordinary user to make."""
    NONE = "none"
    """Only limits and, as root, another user: the kernel or a container allows no namespaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLimits:
    """What a confined program may use before the kernel kills it."""

    memory_bytes: int
    """Of address space (RLIMIT_AS)."""
    cpu_s: int
    file_bytes: int
    """Of any file that it writes, its output included (RLIMIT_FSIZE)."""


CONFINED_INPUT = "/input"
"""The path at which a program in namespaces finds its file."""

# $1 KiB of address space, $2 seconds of CPU, $3 blocks of 512 bytes per file: dash's units. Soft
# and hard limit are set together, and at the hard one the kernel sends SIGKILL, not SIGXCPU.
_LIMIT = """\
set -eu
cd /
umask 077
ulimit -c 0
ulimit -n 64
ulimit -v "$1"
ulimit -t "$2"
ulimit -f "$3"
shift 3
echo confined >&2
exec "$@"
"""
CONFINED_LINE = b"confined\n"
"""The first line of stderr, written when all steps have succeeded and the program is about to
begin."""

# The kernel binds nothing from the mount namespace of the descriptor, so the file is looked up
# again by its name. That name can be read only in the old namespace.
_NAME_INPUT = 'INPUT=$(readlink /proc/self/fd/0); export INPUT; exec "$@"'

# The new root is mounted on /sys because nobody keeps a tool or an image there. -ef checks that no
# other file has got the name meanwhile. The shell stays: when the first process of a PID namespace
# ends, the kernel kills all others in it.
_CONFINE = f"""\
set -eu
input=$INPUT
unset INPUT
mount -t tmpfs -o size=1m,mode=0755,nosuid,nodev confined /sys
mkdir /sys/usr /sys/etc
mount --rbind /usr /sys/usr
mount -o remount,bind,ro,nosuid,nodev /sys/usr
for name in bin lib lib32 lib64 libx32 sbin; do
    if [ -L "/$name" ]; then cp -P "/$name" /sys/; fi
done
if [ -e /etc/ld.so.cache ]; then cp /etc/ld.so.cache /sys/etc/; fi
: > /sys{CONFINED_INPUT}
mount --bind "$input" /sys{CONFINED_INPUT}
mount -o remount,bind,ro,nosuid,nodev,noexec /sys{CONFINED_INPUT}
[ /proc/self/fd/0 -ef /sys{CONFINED_INPUT} ]
chroot /sys "$@" || exit "$?"
"""

# fmt: off
_UNSHARE = (
    "unshare", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child",
)
# fmt: on


def input_path(isolation: Isolation) -> str:
    """Return where a confined program finds the file that is its standard input."""
    return "/proc/self/fd/0" if isolation is Isolation.NONE else CONFINED_INPUT


def confined_argv(
    argv: Sequence[str], *, isolation: Isolation, limits: ToolLimits, uid: int | None
) -> list[str]:
    """Return the command line that runs `argv` with access only to the file on its stdin.

    In namespaces it sees /usr and that file, at `input_path` and read-only, and no network, process
    or device of the host. It gains no privileges from set-uid files, dumps no core, and is killed
    by the kernel at its limits. If a step fails, it ends with a message on stderr before `argv`
    begins.

    Args:
        argv: The program, by an absolute path below /usr or found in PATH, and its arguments.
        isolation: What this host allows; see `sandbox`.
        limits: Its resource limits.
        uid: The user and group that it runs as; the file must be readable by them. None without
            root.
    """
    setpriv = [*_SETPRIV]
    if uid is not None or isolation is Isolation.USER_NAMESPACE:
        setpriv += [_NO_CAPABILITIES]
    if uid is not None:
        setpriv += _become(uid, uid)
    # fmt: off
    limited = [
        "/bin/sh", "-c", _LIMIT, "limit",
        str(limits.memory_bytes // 1024), str(limits.cpu_s), str(limits.file_bytes // 512),
        *setpriv, "--", *argv,
    ]
    # fmt: on
    if isolation is Isolation.NONE:
        return limited
    user = ["--user", "--map-root-user"] if isolation is Isolation.USER_NAMESPACE else []
    confine = [*_UNSHARE, *user, "/bin/sh", "-c", _CONFINE, "confine", *limited]
    return ["/bin/sh", "-c", _NAME_INPUT, "name", *confine]
