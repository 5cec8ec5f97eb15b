import os

import pytest

from qemu_node.net.errors import NftError, TableOwnedError
from qemu_node.net.filter.nft import _error

_REFUSED = "Error: Could not process rule: Operation not permitted\nadd table bridge qn\n^^^^^\n"


def test_an_error_is_the_first_line_without_the_text_it_is_about() -> None:
    error = _error("Error: syntax error, unexpected '{'\nadd element bridge qn { {\n      ^\n")
    assert str(error) == "nftables refused: syntax error, unexpected '{'"
    assert str(_error("")) == "nftables refused: without a reason"
    assert len(str(_error("x" * 5000))) < 400


@pytest.mark.parametrize(("uid", "kind"), [(0, TableOwnedError), (1000, NftError)])
def test_only_root_is_refused_because_somebody_owns_the_table(
    uid: int, kind: type[NftError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert type(_error(_REFUSED)) is kind
