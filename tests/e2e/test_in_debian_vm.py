"""What needs cgroup v2, systemd or VLANs on bridges: run in a VM with Debian 13's kernel.

One boot for all such tests; each that fails is named here. Elsewhere they skip themselves.
"""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from guests import cache
from guests.testvm import TestVM

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(1500)]

SOURCES = ("src", "tests", "osimage", "pyproject.toml")
MARKERS = ("needs_cgroup2", "needs_vlans")
COMMAND = f"""
python3 -m pytest -p no:cacheprovider -m '{" or ".join(MARKERS)}' --durations=15 \
    --junitxml=/results/junit.xml -o junit_family=xunit1 tests/integration tests/network
"""


def test_tests_that_need_debians_kernel_pass_in_a_vm(test_vm: TestVM, tmp_path: Path) -> None:
    files = {name: cache.REPO / name for name in SOURCES}
    # Guests of the tests in the VM boot the VM's own kernel and busybox.
    files |= {f"boot/{name}": test_vm._files / name for name in ("vmlinuz", "initrd")}
    outcome = test_vm.run(COMMAND, files, tmp_path, timeout_s=1400)

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
    for part in ("integration", "network"):
        ran = [case for case in cases if f"tests.{part}" in (case.get("classname") or "")]
        assert ran, f"no test below tests/{part} was run\n{outcome.output}"
