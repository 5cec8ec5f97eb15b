"""What all tests of the installed system share: the built image, the node, a registry.

They run only in `make test-os`: each needs minutes, an Elemental CLI and a Nomad.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scenario.installation import Installation, installed
from scenario.ocilayout import Layout, LayoutRegistry
from scenario.upgrading import Upgradable, Upgrades

OUTPUT_ENV = "OS_IMAGE"
"""The directory of what `make iso oci` built; the tests here are skipped without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What the build made, of one tag."""

    iso: Path
    layout: Layout


@pytest.fixture(scope="session")
def built() -> Built:
    """Return the ISO and the OCI image under test."""
    directory = os.environ.get(OUTPUT_ENV)
    if not directory:
        pytest.skip(f"the node's system is not built: make test-os ({OUTPUT_ENV} is not set)")
    (iso,) = Path(directory).glob("*.iso")
    (layout,) = Path(directory).glob("*.oci")
    return Built(iso=iso, layout=Layout(layout))


@pytest.fixture(scope="session")
def installation(built: Built) -> Installation:
    """Return a disk with the installed system."""
    return installed(built.iso)


@pytest.fixture(scope="module")
def module_directory() -> Iterator[Path]:
    """A directory with a short path, for the machine of a module's tests."""
    path = Path(tempfile.mkdtemp(prefix="qn-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def upgrades(
    installation: Installation, built: Built, module_directory: Path
) -> Iterator[Upgrades]:
    """The node of a module's tests, and a registry; a module may choose another installation."""
    registry = LayoutRegistry()
    upgrades = Upgrades(installation, built.layout, registry, module_directory)
    yield upgrades
    upgrades.discard()
    registry.close()


@pytest.fixture
def node(upgrades: Upgrades, request: pytest.FixtureRequest) -> Iterator[Upgradable]:
    """A running node that has settled; the test leaves it like that."""
    failed = request.session.testsfailed
    yield upgrades.node()
    if request.session.testsfailed > failed:
        upgrades.discard()
