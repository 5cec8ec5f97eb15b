"""The image's small programs, where /etc, /run, /root and /usr/lib are the test's own."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from qemu_node.host.process.command import SAFE_ENV, Completed, run_blocking

_FILES = Path(__file__).parents[2] / "osimage" / "files"

# What is below is the machine's own and is not changed: all writes go to a tmpfs.
_NODE = r"""set -eu
files=$1 fakes=$2 script=$3
mount -t tmpfs tmpfs /mnt
for name in etc usr/lib usr/libexec root; do
    work=/mnt/$(echo $name | tr / -)
    mkdir -p $work/u $work/w
    [ -d /$name ] || continue
    mount -t overlay -o lowerdir=/$name,upperdir=$work/u,workdir=$work/w overlay /$name
done
rm -rf /root/.ssh /etc/ssh
mount -t tmpfs tmpfs /run
mkdir -p /run/elemental /etc/ssh/sshd_config.d /usr/lib/qemu-node /root/.ssh
cp $files/usr/lib/qemu-node/* /usr/lib/qemu-node/
printf 'root:*:20000:0:99999:7:::\n' >/etc/shadow
PATH=$fakes:$PATH
eval "$script"
"""

Node = Callable[[str], str]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Run a script on a node; returns what it prints."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()

    def run(script: str) -> str:
        done: Completed = run_blocking(
            ["unshare", "--mount", "sh", "-c", _NODE, "node", str(_FILES), str(fakes), script],
            env=SAFE_ENV,
        )  # fmt: skip
        return done.stdout.decode()

    for name in ("systemctl", "qemu-node", "elemental"):
        fake = fakes / name
        fake.write_text(f'#!/bin/sh\necho "{name} $*"\n')
        fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    return run


pytestmark = pytest.mark.needs_root

_PASSWORD = """\
set_password() {
    hash=$(perl -e 'print crypt($ARGV[0], q($6$0123456789abcdef$))' "$1")
    printf 'root:%s:20000:0:99999:7:::\\n' "$hash" >/etc/shadow
}
"""
_SSH = "live() { /usr/lib/qemu-node/live-ssh allowed && echo open || echo closed; }\n"


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        pytest.param("", "none", id="locked"),
        pytest.param("sed -i 's/[*]//' /etc/shadow", "none", id="empty"),
        pytest.param("set_password elemental", "live", id="the-live-systems"),
        pytest.param("set_password elementa", "set", id="another"),
    ],
)
def test_the_password_that_everybody_knows_is_told_from_another(
    node: Node, setup: str, expected: str
) -> None:
    assert node(f"{_PASSWORD}{setup}\n/usr/lib/qemu-node/root-password") == f"{expected}\n"


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        pytest.param("set_password elemental", "closed", id="known-password"),
        pytest.param("set_password secret", "open", id="own-password"),
        pytest.param("echo 'ssh-ed25519 AAAA me' >/root/.ssh/authorized_keys", "open", id="key"),
        pytest.param("echo '# ssh-ed25519' >/root/.ssh/authorized_keys", "closed", id="comment"),
    ],
)
def test_sshd_of_the_live_system_waits_for_a_password_or_key(
    node: Node, setup: str, expected: str
) -> None:
    script = f"{_PASSWORD}{_SSH}touch /run/elemental/live_mode\n{setup}\nlive"
    assert node(script) == f"{expected}\n"


def test_sshd_of_an_installed_system_always_runs(node: Node) -> None:
    assert node(f"{_SSH}touch /run/elemental/active_mode\nlive") == "open\n"


def test_the_live_systems_sshd_takes_passwords_only_while_root_has_its_own(node: Node) -> None:
    conf = "/etc/ssh/sshd_config.d/10-live.conf"
    apply = "/usr/lib/qemu-node/live-ssh apply"
    said = node(
        f"{_PASSWORD}touch /run/elemental/live_mode\n"
        f"set_password secret\n{apply}\ncat {conf}\n"
        f"set_password elemental\n{apply}\ncat {conf} || :"
    )
    restart = "systemctl --no-block restart ssh.service\n"
    assert said == f"{restart}PermitRootLogin yes\nPasswordAuthentication yes\n{restart}"


_IDENTITY = "/usr/lib/qemu-node/identity"
_SHOW = "cat /etc/machine-id; ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key"


def test_a_node_keeps_its_machine_id_and_its_host_key(node: Node) -> None:
    said = node(
        f"{_IDENTITY} /run/store\n{_SHOW}\n: >/etc/machine-id\n{_IDENTITY} /run/store\n{_SHOW}"
    )
    lines = said.splitlines()
    assert len(lines) == 4
    assert lines[:2] == lines[2:]
    assert len(lines[0]) == 32


def test_two_nodes_have_different_ids(node: Node) -> None:
    once = f"rm -rf /run/store /etc/ssh/*\n{_IDENTITY} /run/store\n{_SHOW}\n"
    lines = node(once + once).splitlines()
    assert lines[0] != lines[2]
    assert lines[1] != lines[3]


@pytest.mark.parametrize("damage", ["", "deadbeef", "x" * 32])
def test_what_a_power_cut_has_left_is_made_anew(node: Node, damage: str) -> None:
    said = node(
        f"mkdir /run/store\nprintf '{damage}' >/run/store/machine-id\n"
        f"printf 'half a key' >/etc/ssh/ssh_host_ed25519_key\n{_IDENTITY} /run/store\n{_SHOW}\n"
        "cat /run/store/machine-id\nstat -c %a /etc/ssh/ssh_host_ed25519_key"
    )
    machine_id, key, kept, mode = said.splitlines()
    assert machine_id == kept != damage
    assert "(ED25519)" in key
    assert mode == "600"


@pytest.mark.parametrize(
    "store",
    [
        pytest.param("mount -t tmpfs -o ro tmpfs /run/store", id="read-only"),
        pytest.param(
            "mount -t tmpfs -o size=4k tmpfs /run/store; echo x >/run/store/full", id="full"
        ),
        pytest.param("rmdir /run/store; echo x >/run/store", id="no-directory"),
    ],
)
def test_a_node_whose_store_takes_nothing_has_an_identity_for_this_boot(
    node: Node, store: str
) -> None:
    """Without a host key nobody could log in by ssh."""
    machine_id, key = node(
        f"mkdir /run/store\n{store}\n{_IDENTITY} /run/store\n{_SHOW}"
    ).splitlines()
    assert len(machine_id) == 32
    assert "(ED25519)" in key


def test_a_live_system_has_an_identity_for_this_boot(node: Node) -> None:
    assert "(ED25519)" in node(f"{_IDENTITY}\n{_SHOW}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("install --wipe /dev/sda", "qemu-node os install --wipe /dev/sda\n"),
        ("upgrade --reboot", "qemu-node os upgrade --reboot\n"),
        ("--debug install --wipe /dev/sda", "qemu-node os install --wipe /dev/sda --debug\n"),
        (
            "--config-dir state --quiet upgrade --system 'a b'",
            "qemu-node os upgrade --system a b --config-dir state --quiet\n",
        ),
        ("state", "elemental state\n"),
        (
            "--debug --logfile install run-stage 'a b' x",
            "elemental --debug --logfile install run-stage a b x\n",
        ),
        ("", "elemental \n"),
        ("--debug upgrade-recovery --system x || echo no", "no\n"),
    ],
)
def test_elemental_as_people_type_it_has_our_checks(node: Node, words: str, expected: str) -> None:
    """Also with Elemental's own options before the command."""
    wrapper = "sed s:/usr/bin/elemental:elemental: $files/usr/local/sbin/elemental >/run/wrapper"
    assert node(f"{wrapper}\nsh /run/wrapper {words}") == expected


def test_the_health_check_is_asked_by_elementals_word(node: Node) -> None:
    checker = "$files/usr/libexec/elemental-checker/50-qemu-node"
    assert node(f"{checker} check") == "qemu-node os health --once\n"
    assert node(f"{checker} else") == ""


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [("quiet elemental.health_check panic=5", "multi-user.target.d\n"), ("quiet", "")],
)
def test_only_the_first_boot_of_a_system_has_a_limit(
    node: Node, cmdline: str, expected: str
) -> None:
    generator = "$files/usr/lib/systemd/system-generators/qemu-node-boot-limit"
    assert (
        node(
            f"echo '{cmdline}' >/run/cmdline\nmount --bind /run/cmdline /proc/cmdline\n"
            f"mkdir /run/out\n{generator} /run/out /run/out /run/out\nls /run/out"
        )
        == expected
    )
