"""What needs cgroup v2, systemd or a kernel of its own: run in a VM with Debian 13's kernel.

One boot for all such tests; each that fails is named here. Elsewhere they skip themselves.
"""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from guests import cache
from guests.testvm import TestVM

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(1500)]

SOURCES = ("src", "tests", "pyproject.toml")
COMMAND = """
python3 -m pytest -p no:cacheprovider -m needs_cgroup2 --junitxml=/results/junit.xml \
    -o junit_family=xunit2 tests/integration
"""


def test_tests_that_need_cgroup_v2_pass_in_a_debian_vm(test_vm: TestVM, tmp_path: Path) -> None:
    files = {name: cache.REPO / name for name in SOURCES}
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
    assert cases, f"no test was marked needs_cgroup2\n{outcome.output}"
    assert outcome.exit_code == 0, outcome.output
