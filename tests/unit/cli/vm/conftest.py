import io
import sys
from pathlib import Path

import pytest
from fakes.command_line import Node


@pytest.fixture
def node(short_tmp_path: Path) -> Node:
    return Node(short_tmp_path)


@pytest.fixture(autouse=True)
def no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
