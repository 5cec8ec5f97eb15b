"""What all tests of the installed system share: the built image, the node, a registry.

They run only in `make test-os`: each needs minutes, an Elemental CLI and a Nomad.
"""

import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scenario.installation import Installation, installed
from scenario.ocilayout import Layout, LayoutRegistry

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


@pytest.fixture
def registry(built: Built) -> Generator[LayoutRegistry]:
    """A registry with the image under test as `stable`."""
    registry = LayoutRegistry()
    registry.push(built.layout, "stable")
    yield registry
    registry.close()
