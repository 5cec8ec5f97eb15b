"""The lab of the network tests: one for each module."""

from collections.abc import Iterator

import pytest
from network.lab import Lab, open_lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with open_lab() as built:
        yield built
