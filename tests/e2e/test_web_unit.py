"""The package's unit of the console under a real systemd, beside VMs of root and a console of root.

A fresh Debian with the package boots in namespaces of its own.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.booted_debian import boot, why_no_boot
from e2e.deb_package import build_package
from e2e.fresh_debian import FreshDebian
from guests.fixtures import built

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_qemu, pytest.mark.timeout(1200)]

MAX_EXPOSURE = 2.0

_INSTALL = """
unset TMPDIR
apt-get -qq update
apt-get -qq install --no-install-recommends ./qemu-node.deb systemd-sysv
"""

# What the API says to whoever is let in: ask.py PATH [MEMBER…].
_ASK = """
import json, ssl, sys, urllib.request
context = ssl._create_unverified_context()
url, headers = "https://127.0.0.1:5800", {"X-QN": "1", "Content-Type": "application/json"}
login = urllib.request.Request(f"{url}/api/v1/login", b'{"open": true}', headers)
with urllib.request.urlopen(login, context=context, timeout=60) as reply:
    cookie = reply.headers["Set-Cookie"].partition(";")[0]
ask = urllib.request.Request(url + sys.argv[1], headers={"Cookie": cookie})
with urllib.request.urlopen(ask, context=context, timeout=60) as reply:
    data = reply.read()
    if reply.headers["Content-Type"].startswith("application/json"):
        found = json.loads(data)
        for member in sys.argv[2:]:
            found = found[int(member)] if member.isdigit() else found.get(member)
        print(found)
    else:
        print(reply.headers["Content-Type"])
"""

_BEGIN = f"""
fail() {{
    systemctl status --no-pager qemu-node
    journalctl --no-pager -u qemu-node | tail -n 60
    cat /tmp/run.log
    exit 1
}}
wait_for() {{
    tries=0
    until "$@" >/tmp/waiting 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || {{ cat /tmp/waiting; fail; }}
        sleep 0.5
    done
}}
show() {{ systemctl show --value --property=$1 qemu-node; }}
pid_is_new() {{ [ $(show ActiveState) = active ] && [ $(show MainPID) != $1 ]; }}
ask() {{ python3 /src/ask.py "$@"; }}
says() {{ test "$(ask "$1" $2)" = "$3"; }}
subject() {{ echo | openssl s_client -connect "$1" 2>/dev/null | grep '^subject'; }}
touch /tmp/run.log

# Started by default, as the user of the package.
wait_for systemctl is-active qemu-node
pid=$(show MainPID)
for line in "Uid:.*$(id -u qemu-node)" 'CapBnd:.*0000000000000000' 'CapEff:.*0000000000000000' \\
    'Seccomp:.*2' 'NoNewPrivs:.*1'; do
    grep "^$line" /proc/$pid/status || fail
done
show StatusText | grep 'https on port 5800, 0 VMs'
systemd-analyze security --no-pager qemu-node.service >/tmp/exposure
level=$(grep -o 'level for qemu-node.service: [0-9.]*' /tmp/exposure)
python3 -c 'import sys; sys.exit(float(sys.argv[1].split()[-1]) > {MAX_EXPOSURE})' "$level"
test "$(stat -c '%U %a' /var/lib/qemu-node-web/certificate.pem)" = 'qemu-node 600'
test "$(stat -c '%U %a' /run/qemu-node/web/certificate.pem)" = 'qemu-node 644'
test "$(stat -c %U /run/qemu-node)" = root
subject 127.0.0.1:5800 | grep 'Nomad QEMU node'
own=$(qemu-node serve --fingerprint)
# Nobody is let in: there is no Nomad.
qemu-node doctor >/tmp/doctor || true
grep 'console.*nobody can log in: Nomad does not answer' /tmp/doctor
"""

_VMS = """
cat >>/etc/qemu-node/node.toml <<'EOF'
[qemu]
accelerator = "tcg"
[images]
image_paths = ["/images"]
[web]
auth = "none"
accept_open_access = true
EOF
qemu-node config check
systemctl restart qemu-node || fail
test "$(qemu-node serve --fingerprint)" = "$own"
mkdir -p /images
truncate -s 1M /images/empty.raw
job=/usr/share/doc/qemu-node/examples/minimal.nomad.hcl
qemu-node run $job -var image=/images/empty.raw >/tmp/run.log 2>&1 &
run=$!
wait_for says /api/v1/vms 'vms 0 state' running
id=$(ask /api/v1/vms vms 0 vm_id)
vm=$(ask /api/v1/vms/$id qemu pid)
# Its own monitor or a turn at the command's: QEMU answers, and gives a picture.
wait_for says /api/v1/vms/$id 'qemu run_state' running
says /api/v1/vms/$id 'qemu problem' None
says /api/v1/vms/$id/thumbnail '' image/jpeg
says /api/v1/node 'problems' None
# The console of `run` has a port of its own; both share the serial port, each in its directory.
wait_for grep 'http://127.0.0.1:[0-9]*/#link=' /tmp/run.log
if grep '127.0.0.1:5800' /tmp/run.log; then exit 1; fi
test "$(stat -c '%U %G %a' /run/qemu-node/web/$id.sock)" = 'qemu-node qemu-node 660'
test "$(stat -c '%U %G %a' /run/qemu-node/web-run/$id.sock)" = 'root qemu-node 660'
console() {
    "$@" qemu-node vm console --no-input $id >/tmp/console 2>&1 &
    shown=$!
    wait_for grep 'console of' /tmp/console
    kill $shown
    wait $shown || true
}
member="setpriv --reuid=65501 --regid=65501 --groups=$(getent group qemu-node | cut -d: -f3)"
stranger="setpriv --reuid=65501 --regid=65501 --clear-groups"
console env
console $member env HOME=/tmp QEMU_NODE_SYSTEM=1
$stranger env HOME=/tmp QEMU_NODE_SYSTEM=1 qemu-node vm console --no-input $id 2>&1 |
    grep "another user's"
"""

_SURVIVES = """
# The daemon is killed, and hangs: systemd starts it again, and it finds the VM, which goes on.
pid=$(show MainPID)
systemctl kill --signal=KILL qemu-node
wait_for pid_is_new $pid
wait_for says /api/v1/vms 'vms 0 state' running
show WatchdogUSec | grep 1min
mkdir -p /run/systemd/system/qemu-node.service.d
printf '[Service]\\nWatchdogSec=10\\n' >/run/systemd/system/qemu-node.service.d/test.conf
systemctl daemon-reload
systemctl restart qemu-node || fail
pid=$(show MainPID)
systemctl kill --signal=STOP qemu-node
wait_for pid_is_new $pid
wait_for says /api/v1/vms 'vms 0 state' running
test "$(ask /api/v1/vms/$id qemu pid)" = $vm
kill -0 $run $vm
# It ends in time, and leaves what is not its.
systemctl stop qemu-node
test $(show Result) = success
test ! -e /run/qemu-node/web
test -e /run/qemu-node/web-run/$id.sock
console env
systemctl start qemu-node || fail
wait_for says /api/v1/vms 'vms 0 state' running
# VM, driver and the other console end; the daemon stays and says so.
kill -INT $run
wait $run || test $? = 130
wait_for says /api/v1/vms 'vms 0 state' ended
test ! -e /run/qemu-node/web/$id.sock
systemctl is-active qemu-node
"""

_SETTINGS = """
# Nomad's certificate, which only root can read.
mkdir -p /data/config/tls
chmod 700 /data/config/tls
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=nomads \\
    -keyout /data/config/tls/node-key.pem -out /data/config/tls/node.pem
cp /data/config/tls/node.pem /data/config/tls/ca.pem
systemctl restart qemu-node || fail
subject 127.0.0.1:5800 | grep nomads
test "$(qemu-node serve --fingerprint)" != "$own"
# node.toml is wrong: it says so.
systemctl stop qemu-node
printf '[web]\\nport = 0\\n' >/etc/qemu-node/node.toml
if systemctl start qemu-node; then exit 1; fi
journalctl --no-pager -u qemu-node | grep 'web.port must be 1 to 65535'
systemctl stop qemu-node
printf '[web]\\nenabled = false\\n' >/etc/qemu-node/node.toml
systemctl start qemu-node
test $(show Result) = success
"""


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[FreshDebian]:
    if reason := why_no_boot():
        pytest.skip(reason)
    root = tmp_path / "root"
    try:
        made = built(lambda: FreshDebian.make("trixie", root))
        shutil.copy(built(lambda: build_package("trixie")), root / "src/qemu-node.deb")
        yield made
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_systemd_starts_watches_and_ends_the_console_beside_roots_vms(debian: FreshDebian) -> None:
    installed = debian.run(_INSTALL, is_alone=False, timeout_s=600)
    assert installed.returncode == 0, installed.stderr.decode(errors="replace")[-4000:]
    (debian.root / "src/ask.py").write_text(_ASK)
    script = "".join((_BEGIN, _VMS, _SURVIVES, _SETTINGS))
    status, said = boot(debian.root, script, timeout_s=600)
    assert status == 0, said[-12000:]
