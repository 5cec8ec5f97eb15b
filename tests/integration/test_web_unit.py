"""The unit of the console: what it may do, and what it gets where files are missing."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from guests import cache

from qemu_node.host.process.command import run

MAX_EXPOSURE = 2.0
"""Of 10; more than the project's other services are limited to."""

UNIT = cache.REPO / "debian/qemu-node.service"


def _settings() -> list[tuple[str, str]]:
    return re.findall(r"(?m)^(\w+)=(.*)$", UNIT.read_text())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
async def test_the_unit_may_do_little(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/bin/qemu-node", sys.executable))
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(copy)]
    words = (await run(argv)).stdout.decode()
    (value,) = re.findall(r"exposure level for \S+: ([0-9.]+)", words)
    assert float(value) <= MAX_EXPOSURE, words


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
async def test_systemd_takes_every_setting(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/bin/qemu-node", sys.executable))
    argv = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)]
    done = await run(argv, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_every_credential_has_a_value_where_its_file_is_missing() -> None:
    loaded = {value.partition(":")[0] for name, value in _settings() if name == "LoadCredential"}
    default = {value.partition(":")[0] for name, value in _settings() if name == "SetCredential"}
    assert loaded == default == {"tls-cert", "tls-key", "nomad-ca"}


def test_it_is_no_root_and_needs_nothing_to_run() -> None:
    settings = dict(_settings())
    assert settings["User"] == settings["Group"] == "qemu-node"
    assert settings["CapabilityBoundingSet"] == ""
    assert not {"Requires", "BindsTo", "PartOf"} & settings.keys()
    assert float(settings["WatchdogSec"]) >= 30
