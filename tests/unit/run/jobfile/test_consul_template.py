import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.errors import JobError
from qemu_node.run.jobfile.consul_template import render

ENV = {"NOMAD_ALLOC_INDEX": "1", "KEY": " ssh-ed25519 AAAA "}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('vm-{{ env "NOMAD_ALLOC_INDEX" }}', "vm-1"),
        ('{{env "NOMAD_ALLOC_INDEX"}}{{env `NOMAD_ALLOC_INDEX`}}', "11"),
        ('[{{ env "NOT_SET" }}]', "[]"),
        ('{{ envOrDefault "NOT_SET" "x" }}', "x"),
        ('{{ env "KEY" | trimSpace | toUpper }}', "SSH-ED25519 AAAA"),
        ('{{ "a" | base64Encode }}', "YQ=="),
        ('a \n {{- env "NOMAD_ALLOC_INDEX" -}} \n b', "a1b"),
        ("a{{/* {{ env }} \n */}}b", "ab"),
        ('{{ "}}" }}', "}}"),
        (r'{{ "a\n\"b\"" }}', 'a\n"b"'),
        ("${HOME} $5 } }} {", "${HOME} $5 } }} {"),
    ],
)
def test_the_supported_part_renders_as_consul_template_does(text: str, expected: str) -> None:
    assert render(text, ENV, "t") == expected


def test_other_delimiters_leave_the_usual_ones_alone() -> None:
    text = '{{ keep }} [[ env "NOMAD_ALLOC_INDEX" ]]'
    assert render(text, ENV, "t", left_delimiter="[[", right_delimiter="]]") == "{{ keep }} 1"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{{ range service "web" }}x{{ end }}', "'range' is not supported"),
        ('{{ with secret "x" }}', "'with' is not supported"),
        ("{{ if true }}", "'if' is not supported"),
        ("{{ $x }}", r"'\$x' is not supported"),
        ('{{ key "a/b" }}', "'key' is not supported"),
        ('{{ env (printf "A") }}', r"'\(' is not supported"),
        ("{{ env . }}", r"'\.' is not supported"),
        ("{{ env }}", "takes 1 argument"),
        ('{{ env "A" ', "without its }}"),
        ('{{ env "A }}', "closing quote"),
        ("{{ }}", "empty action"),
        ('{{ env "A" | }}', "empty action"),
        ("{{/* }}", r"comment without its \*/"),
    ],
)
def test_everything_else_is_named_not_guessed(text: str, named: str) -> None:
    with pytest.raises(JobError, match=named):
        render(text, ENV, "t")


def test_an_error_says_where_it_is() -> None:
    with pytest.raises(JobError, match="user_data, line 2, column 9: 'range'"):
        render("ok\n   a {{ range x }}", ENV, "user_data")


@settings(max_examples=300)
@given(st.text(alphabet='{}-/*"`|\\ \nenvab$.'))
def test_hostile_text_renders_or_is_refused(text: str) -> None:
    with contextlib.suppress(JobError):
        render(text, ENV, "t")


@settings(max_examples=100)
@given(st.text(), st.text().filter(lambda text: "{" not in text))
def test_a_value_is_text_whatever_it_holds(value: str, around: str) -> None:
    rendered = render(around + '{{ env "X" }}' + around, {"X": value}, "t")
    assert rendered == around + value + around
