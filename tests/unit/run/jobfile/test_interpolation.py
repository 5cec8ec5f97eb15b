import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.errors import JobError
from qemu_node.run.jobfile.interpolation import (
    UnknownVariableError,
    interpolate,
    interpolate_simple,
    interpolate_value,
)

VALUES = {"NOMAD_ALLOC_INDEX": "3", "attr.kernel.name": "linux", "node.datacenter": "dc1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vm-${NOMAD_ALLOC_INDEX}", "vm-3"),
        ("${ NOMAD_ALLOC_INDEX }", "3"),
        ('${env["NOMAD_ALLOC_INDEX"]}', "3"),
        ("${attr.kernel.name}", "linux"),
        ("${node.attr.kernel.name}", "linux"),
        ('${attr["kernel.name"]}', "linux"),
        ("${node.datacenter}", "dc1"),
        ("$${NOMAD_ALLOC_INDEX}", "${NOMAD_ALLOC_INDEX}"),
        ("$5 {x} 100%", "$5 {x} 100%"),
    ],
)
def test_config_strings_are_filled_in_as_nomad_does(text: str, expected: str) -> None:
    assert interpolate(text, VALUES, "config.image") == expected


def test_an_unknown_name_is_named_with_its_option() -> None:
    with pytest.raises(UnknownVariableError, match=r"config\.args\[1\].*NOMAD_NOPE"):
        interpolate_value({"args": ["x", "${NOMAD_NOPE}"]}, VALUES, "config")


@pytest.mark.parametrize("text", ["${upper(NOMAD_ALLOC_INDEX)}", "${1 + 1}", "${}", "${a", "%{if}"])
def test_more_than_a_name_is_refused_not_guessed(text: str) -> None:
    with pytest.raises(JobError):
        interpolate(text, VALUES, "config.image")


def test_other_values_than_strings_stay_as_they_are() -> None:
    config = {"cpus": 2, "network": [{"mode": "user"}], "merge": True}
    assert interpolate_value(config, VALUES, "config") == config


def test_env_values_know_no_escape() -> None:
    assert interpolate_simple("$${NOMAD_ALLOC_INDEX} ${ x }", VALUES, "env X") == "$3 ${ x }"


def test_an_unknown_name_in_env_is_named() -> None:
    with pytest.raises(UnknownVariableError, match=r"env X: .*NOPE"):
        interpolate_simple("${NOPE}", VALUES, "env X")


@settings(max_examples=200)
@given(st.text())
def test_hostile_text_is_filled_in_or_refused_never_more(text: str) -> None:
    try:
        result = interpolate(text, {}, "config.image")
    except JobError:
        return
    assert result == text.replace("$${", "${").replace("%%{", "%{")


@settings(max_examples=100)
@given(st.text())
def test_a_value_is_never_interpolated_again(value: str) -> None:
    values = {"A": value}
    assert interpolate("${A}", values, "x") == value
    assert interpolate_simple("<${A}>", values, "x") == f"<{value}>"
