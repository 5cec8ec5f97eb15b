"""What needs cgroup v2, systemd or VLANs on bridges: run in a VM with Debian 13's kernel.

One boot for all of them, and one for those that need a Nomad agent as well; each that fails is
named here. Elsewhere they skip themselves.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from guests import cache
from guests.testvm import Outcome, TestVM

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(1500)]

TIMEOUT_S = 1400
SOURCES = {
    name: cache.REPO / name
    for name in ("src", "tests", "bench", "osimage", "docs", "pyproject.toml")
}
PYTEST = """
python3 -m pytest -p no:cacheprovider --durations=15 \
    --junitxml=/results/junit.xml -o junit_family=xunit1"""
SELECTION = "-m 'needs_cgroup2 or needs_vlans' tests/integration tests/network"
NOMAD_COMMAND = f"""
export NOMAD=/test/nomad XDG_CACHE_HOME=/test/cache
mkdir /results/failures
ln -s /results/failures /test/cache/qemu-node/failures
{PYTEST} -m 'needs_nomad and needs_vlans' tests/e2e
"""


def assert_passed(outcome: Outcome, parts: Sequence[str]) -> None:
    """Fail unless every test was run and passed, some of them below each of `parts` of `tests`."""
    report = outcome.results / "junit.xml"
    assert report.exists(), outcome.output
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = [case.get("name") for case in cases if case.find("skipped") is not None]
    assert not bad, f"failed in the VM: {', '.join(bad)}\n{outcome.output}"
    assert not skipped, f"skipped in the VM, which lacks nothing: {skipped}\n{outcome.output}"
    assert outcome.exit_code == 0, outcome.output
    for part in parts:
        ran = [case for case in cases if f"tests.{part}" in (case.get("classname") or "")]
        assert ran, f"no test below tests/{part} was run\n{outcome.output}"


def test_tests_that_need_debians_kernel_pass_in_a_vm(test_vm: TestVM, tmp_path: Path) -> None:
    # Guests of the tests in the VM boot the VM's own kernel and busybox.
    boot = {f"boot/{path.name}": path for path in test_vm.boot_files}
    outcome = test_vm.run(f"{PYTEST} {SELECTION}\n", SOURCES | boot, tmp_path, timeout_s=TIMEOUT_S)
    assert_passed(outcome, ("integration", "network"))


@pytest.mark.needs_nomad
def test_a_nomad_agent_serves_vms_in_vlans_in_a_vm(
    test_vm: TestVM, small_guest_image: Path, tmp_path: Path
) -> None:
    files = SOURCES | {
        "nomad": Path(os.environ["NOMAD"]),
        f"cache/qemu-node/{small_guest_image.name}": small_guest_image,
    }
    outcome = test_vm.run(NOMAD_COMMAND, files, tmp_path, timeout_s=TIMEOUT_S)
    assert_passed(outcome, ("e2e",))
