"""The node's system, built for tests: without Elemental, with a stand-in if no Nomad is given."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests.fixtures import built

from osimage.build import commands
from osimage.build.errors import BuildError
from osimage.build.request import BuildRequest
from osimage.build.stages import Stages
from osimage.build.tree import debian

STAND_IN = Path(__file__).with_name("nomad-stand-in")
# Not the time of the commit: the kept tree serves until something in it changes.
EPOCH = 1767225600


def request() -> BuildRequest:
    """Return what the tests build."""
    return BuildRequest(
        what="rootfs", tag="test", out=Path("out"), source="", key=None, record=None,
        snapshot=None, overlays=(), iso_overlay=None, is_plain=True, epoch=EPOCH,
        nomad=Path(os.environ.get("NOMAD") or STAND_IN), elemental=None,
    )  # fmt: skip


@pytest.fixture(scope="session")
def stages() -> Iterator[Stages]:
    with Stages(commands.cache_dir()) as opened:
        yield opened


@pytest.fixture(scope="session")
def tools(stages: Stages) -> Path:
    return built(lambda: debian.make_tools(stages))


@pytest.fixture(scope="session")
def tree(stages: Stages) -> Path:
    """Return the root file system, built unless it is kept."""
    try:
        return built(lambda: commands.build_tree(stages, request()).tree)
    except BuildError as exc:
        pytest.fail(f"the system cannot be built: {exc.explain()}", pytrace=False)
