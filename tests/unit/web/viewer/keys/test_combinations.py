"""Keys by name."""

import pytest

from qemu_node.web.http.problems import Problem
from qemu_node.web.viewer.keys.combinations import names, plan_keys


@pytest.mark.parametrize(
    ("keys", "qcodes"),
    [
        (["ctrl", "alt", "delete"], ["ctrl", "alt", "delete"]),
        (["ctrl", "alt", "f2"], ["ctrl", "alt", "f2"]),
        (["win"], ["meta_l"]),
        (["printscreen"], ["print"]),
        (["alt", "sysrq", "b"], ["alt", "sysrq", "b"]),
    ],
)
def test_what_the_page_offers_is_known(keys: list[str], qcodes: list[str]) -> None:
    assert plan_keys(keys) == qcodes
    assert set(keys) <= set(names())


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ([], "one to 5"),
        (["a"] * 2, "once"),
        (["ctrl", "alt", "shift", "win", "altgr", "a"], "one to 5"),
        (["strg"], "no key 'strg'"),
        (["\x1b[2J" * 50], "no key"),
    ],
)
def test_anything_else_is_refused(keys: list[str], why: str) -> None:
    with pytest.raises(Problem, match=why) as caught:
        plan_keys(keys)
    assert "\x1b" not in caught.value.body().message


def test_a_near_miss_is_answered_with_the_right_name() -> None:
    with pytest.raises(Problem) as caught:
        plan_keys(["del", "delet"])
    assert caught.value.hint == "did you mean delete?"
