import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.run.jobfile.syntax import structure_of
from qemu_node.run.jobfile.template import TemplateSyntaxError


@pytest.mark.parametrize(
    ("text", "structure"),
    [
        ('a = "x"', 'a = "."'),
        ('a = "${f("}")}" # "', 'a = "........."    '),
        ("a = 1 // <<E\nb = 2", "a = 1       \nb = 2"),
        ("a = /* 1\n*/ 2", "a =         2"),
        ("größe = 1", "grxxe = 1"),
        ("a = <<E\nx\nE\nb", 'a = "....."\nb'),
        ("a = <<-_E1\r\n x\r\n  _E1 \t\r\nb", f'a = "{"." * 15}" \t\r\nb'),
        ("a = <<E\nE x\nxE\n${b}E\n${\nE\n}\nE\n", f'a = "{"." * 23}"\n'),
    ],
)
def test_strings_heredocs_and_comments_are_blanked_in_their_place(
    text: str, structure: str
) -> None:
    assert structure_of(text) == structure


@pytest.mark.parametrize("text", ["<<", "<<E.1\nE.1\n", '<<"E"\nE\n', "<<E \nE\n", "1 << 2"])
def test_what_is_no_marker_begins_no_heredoc(text: str) -> None:
    with pytest.raises(TemplateSyntaxError, match="marker"):
        structure_of(text)


@pytest.mark.parametrize("text", ['"', "<<E\n", "<<E\nEE\n", '<<E\n${"\nE\n', '"${'])
def test_what_has_no_end_is_refused(text: str) -> None:
    with pytest.raises(TemplateSyntaxError):
        structure_of(text)


@settings(max_examples=300)
@given(st.text(alphabet='aE_ü<-\r\n"\\${}%#/* ', max_size=60))
def test_any_text_keeps_its_length_or_is_refused_at_a_place_in_it(text: str) -> None:
    try:
        structure = structure_of(text)
    except TemplateSyntaxError as exc:
        _ = text[exc.offset]  # it lies in the text
        return
    assert len(structure) == len(text)
