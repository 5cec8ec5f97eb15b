import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.run.jobfile.template import Expression, Literal, TemplateSyntaxError, split_template


def test_expressions_are_cut_out_of_the_text() -> None:
    assert split_template("a${b}c") == [
        Literal("a", starts_line=True),
        Expression("b", 3),
        Literal("c", starts_line=False),
    ]


def test_escapes_become_what_they_stand_for() -> None:
    assert split_template("$${x} %%{y}") == [Literal("${x} %{y}", starts_line=True)]


@pytest.mark.parametrize("inner", ['f("}")', "{a = {b = 1}}", 'f("${g("}")}")', r'"\"}"'])
def test_an_expression_ends_at_its_own_brace(inner: str) -> None:
    assert split_template("${" + inner + "}!")[0] == Expression(inner, 2)


@pytest.mark.parametrize("text", ["${", "a ${b", '${"}', "%{ if x }", "${~ x }", "${ x ~}"])
def test_what_is_torn_or_unsupported_is_refused(text: str) -> None:
    with pytest.raises(TemplateSyntaxError):
        split_template(text)


def test_literals_end_with_their_line() -> None:
    parts = split_template("a\n  b${x}c\n")
    assert [part.text for part in parts if isinstance(part, Literal)] == ["a\n", "  b", "c\n"]
    assert [part.starts_line for part in parts if isinstance(part, Literal)] == [True, True, False]


@settings(max_examples=200)
@given(st.text(alphabet='ab ${}%~"\\\n'))
def test_any_text_is_cut_without_loss_or_refused(text: str) -> None:
    try:
        parts = split_template(text)
    except TemplateSyntaxError as exc:
        _ = text[exc.offset]  # it lies in the text
        return
    for part in parts:
        if isinstance(part, Expression):
            assert text[part.offset :].startswith(part.source)
