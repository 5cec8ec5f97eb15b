"""A fresh Debian with a systemd of its own, in namespaces: what units do there, in seconds.

Owns booting it and the shell text that is run there. Does not own the files (`fresh_debian`). No
limit of a cgroup holds there, and no device can be used but those of every container.
"""

import tempfile
from pathlib import Path

from qemu_node.host.process.command import run_blocking

# What a container needs to boot a systemd of its own.
_BOOT = """
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sys "$root/sys"
mount -t cgroup2 cgroup "$root/sys/fs/cgroup"
mount -t tmpfs dev "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind /dev/$device "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs shm "$root/dev/shm"
mount -t tmpfs run "$root/run"
mount -t tmpfs -o size=50% tmp "$root/tmp"
cd "$root"
mkdir -p .before
pivot_root . .before
# systemd takes for granted that mounts are shared, and does not make them so in a container.
exec chroot . sh -c 'umount -l /.before; mount --make-rshared /; exec /lib/systemd/systemd'
"""
_RUNNER = """
sh -ex /src/script >/src/said 2>&1
echo $? >/src/status
"""
_UNIT = """[Unit]
Description=What a test does
After=basic.target

[Service]
Type=exec
WorkingDirectory=/src
Environment=HOME=/root LANG=C.UTF-8
ExecStart=sh /src/runner
# PID 1 of a namespace ends with all of it.
ExecStopPost=systemctl poweroff --force --force

[Install]
WantedBy=multi-user.target
"""


def why_no_boot() -> str | None:
    """Return why this machine boots no systemd in namespaces; None if it does."""
    script = 'mount -t cgroup2 cgroup "$1" && umount "$1"'
    with tempfile.TemporaryDirectory() as directory:
        argv = ["unshare", "--mount", "--pid", "--fork", "--cgroup", "sh", "-euc", script, "try"]
        done = run_blocking([*argv, directory], timeout_s=30, check=False)
    return None if done.returncode == 0 else f"no cgroup v2 here: {done.stderr.decode().strip()}"


def boot(root: Path, script: str, *, timeout_s: float) -> tuple[int | None, str]:
    """Boot the systemd of a Debian, with loopback only, and run shell text there as root.

    The package systemd-sysv must be installed. All of it ends with the text.

    Args:
        root: Of a `FreshDebian`.
        script: Ends with the first command that fails. Its working directory is /src.
        timeout_s: When it is killed.

    Returns:
        The status, None if there is none, and what was said.
    """
    src = root / "src"
    (src / "script").write_text(script)
    (src / "runner").write_text(_RUNNER)
    units = root / "etc/systemd/system"
    (units / "test.service").write_text(_UNIT)
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "test.service").symlink_to("/etc/systemd/system/test.service")
    (root / "etc/machine-id").write_text("")
    done = run_blocking(
        [
            "unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc",
            "--cgroup", "sh", "-euc", _BOOT, "boot", str(root),
        ],
        env={"container": "other", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        timeout_s=timeout_s,
        check=False,
    )  # fmt: skip
    said, status = src / "said", src / "status"
    words = said.read_text(errors="replace") if said.exists() else ""
    if not status.exists():
        return None, words + done.stderr.decode(errors="replace")
    return int(status.read_text()), words
