"""What the whole test suite shares: which test needs what of the machine, and what if it lacks."""

import functools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["guests.fixtures"]

# By default an example may take 200 ms: a busy machine, or a collection of garbage, takes longer.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

NOMAD_ENV = "NOMAD"
TEST_VM_ENV = "QEMU_NODE_TEST_VM"
"""Set in the VM of `guests.testvm`, whose network, units and files tests may change at will."""
REQUIRE_ENV = "REQUIRE"
"""Names of markers, comma separated, whose lack is a failure; CI=true stands for those of `_CI`."""

_CI = ("needs_root", "needs_qemu")


def _why_no_root() -> str | None:
    return None if os.geteuid() == 0 else "run the tests as root"


def _why_no_qemu() -> str | None:
    found = shutil.which("qemu-system-x86_64")
    return None if found else "qemu-system-x86_64 is not installed (apt install qemu-system-x86)"


def _why_no_kvm() -> str | None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm is missing or may not be used"
    return _why_no_qemu() or _why_kvm_runs_no_guest()


@functools.cache
def _why_kvm_runs_no_guest() -> str | None:
    """Let SeaBIOS run under KVM until it gives up: the device may be there and no guest run."""
    from qemu_node.errors import NodeError
    from qemu_node.host.process import command

    # fmt: off
    argv = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", "q35,accel=kvm,smm=on", "-cpu", "host", "-m", "64",
        "-no-reboot", "-boot", "reboot-timeout=1",
        "-chardev", "stdio,id=debug,signal=off",
        "-device", "isa-debugcon,iobase=0x402,chardev=debug",
    ]
    # fmt: on
    try:
        done = command.run_blocking(argv, timeout_s=30)
    except NodeError as exc:
        return f"KVM runs no guest here: {exc}"
    return None if b"SeaBIOS" in done.stdout else "KVM runs no guest here"


def _why_no_nomad() -> str | None:
    path = os.environ.get(NOMAD_ENV)
    if not path:
        return "give a Nomad binary: NOMAD=/path/to/nomad"
    return None if os.access(path, os.X_OK) else f"NOMAD={path} is no executable file"


def _why_no_cgroup2() -> str | None:
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.controllers").exists():
        return "/sys/fs/cgroup is not a cgroup v2 hierarchy"
    writable = os.access(root / "cgroup.procs", os.W_OK)
    return None if writable else "the cgroup v2 hierarchy may not be written"


@functools.cache
def _why_no_vlans() -> str | None:
    """Try a VLAN on a bridge, in a network namespace that ends with the try."""
    from qemu_node.errors import NodeError
    from qemu_node.host.process import command

    if reason := _why_no_root():
        return reason
    script = """
        ip link add qn-probe type bridge vlan_filtering 1 &&
        bridge vlan add dev qn-probe vid 2 self && nft list ruleset"""
    try:
        command.run_blocking(["unshare", "--net", "sh", "-c", script], timeout_s=30)
    except NodeError as exc:
        return f"this kernel filters no VLANs on bridges, or a tool is missing: {exc}"
    return None


def _why_no_test_vm() -> str | None:
    is_inside = os.environ.get(TEST_VM_ENV) == "1"
    return None if is_inside else "it changes the machine's own network: for the test VM only"


_WHY_MISSING: dict[str, Callable[[], str | None]] = {
    "needs_root": _why_no_root,
    "needs_qemu": _why_no_qemu,
    "needs_kvm": _why_no_kvm,
    "needs_nomad": _why_no_nomad,
    "needs_cgroup2": _why_no_cgroup2,
    "needs_vlans": _why_no_vlans,
    "needs_test_vm": _why_no_test_vm,
}


def _required() -> set[str]:
    """Return the markers whose lack is a failure."""
    named = {name.strip() for name in os.environ.get(REQUIRE_ENV, "").split(",")} - {""}
    is_ci = os.environ.get("CI", "").lower() in ("1", "true", "yes")
    return named | set(_CI if is_ci else ())


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a command that ran in this process did to the root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def short_tmp_path() -> Iterator[Path]:
    """A directory with a path short enough for sockets below it, open to a VM's user."""
    path = Path(tempfile.mkdtemp(prefix="qn-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def empty_image(short_tmp_path: Path) -> Path:
    """A disk of a MiB of zeros, from which no guest boots."""
    path = short_tmp_path / "images" / "empty.raw"
    path.parent.mkdir()
    path.touch()
    os.truncate(path, 1 << 20)
    return path


def pytest_configure() -> None:
    """Refuse a REQUIRE that would require nothing because of a slip."""
    if unknown := _required() - _WHY_MISSING.keys():
        raise pytest.UsageError(f"{REQUIRE_ENV}: unknown markers {', '.join(sorted(unknown))}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail, a test for which this machine lacks something."""
    for name, why_missing in _WHY_MISSING.items():
        if item.get_closest_marker(name) is None:
            continue
        reason = why_missing()
        if reason is None:
            continue
        if name in _required():
            pytest.fail(f"{name}: {reason}", pytrace=False)
        pytest.skip(f"{name}: {reason}")
