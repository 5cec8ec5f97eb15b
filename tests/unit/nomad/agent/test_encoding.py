from typing import Any

import msgspec
import pytest

from qemu_node.errors import JobError
from qemu_node.nomad.agent.encoding import encode_config
from qemu_node.nomad.plugin import hclspec
from qemu_node.nomad.task.options import parse_options, task_schema

_SCHEMA = hclspec.object_of({
    "text": hclspec.attr("text", "string"),
    "number": hclspec.attr("number", "number"),
    "flag": hclspec.attr("flag", "bool"),
    "list": hclspec.attr("list", "list(string)"),
    "ports": hclspec.block_attrs("ports", "number"),
    "one": hclspec.block("one", hclspec.object_of({"a": hclspec.attr("a", "any")})),
    "many": hclspec.block_list(
        "many", hclspec.object_of({"b": hclspec.attr("b", "string", required=True)}), max_items=2
    ),
})  # fmt: skip


def _encoded(**values: Any) -> Any:
    return msgspec.msgpack.decode(encode_config(_SCHEMA, values))


def test_silent_block_has_every_key() -> None:
    assert _encoded() == {
        "text": None,
        "number": None,
        "flag": None,
        "list": None,
        "ports": None,
        "one": None,
        "many": [],
    }


@pytest.mark.parametrize(
    ("key", "value", "arrives"),
    [
        ("text", 5, "5"),
        ("text", True, "true"),
        ("text", "e\u0301", "\u00e9"),
        ("number", "2", 2),
        ("number", 2.0, 2),
        ("number", 0.5, 0.5),
        ("number", 0.1, "0.1"),
        ("number", "1e-7", "0.0000001"),
        ("number", 10**30, "1" + "0" * 30),
        ("text", 1e-7, "0.0000001"),
        ("flag", "true", True),
        ("flag", "0", False),
        ("list", [1, "a"], ["1", "a"]),
        ("ports", {"http": "80"}, {"http": 80}),
        ("ports", [{"http": 80}], {"http": 80}),
        ("one", [{"a": 1}], {"a": 1}),
        ("one", [], None),
        ("one", {}, {"a": None}),
        ("many", {"b": "x"}, [{"b": "x"}]),
        ("many", [{"b": "x"}, {"b": "y"}], [{"b": "x"}, {"b": "y"}]),
    ],
)
def test_values_arrive_as_go_cty_writes_them(key: str, value: Any, arrives: Any) -> None:
    assert _encoded(**{key: value})[key] == arrives


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imge": 1}, 'no option "imge"'),
        ({"number": "x"}, "config.number: a value of type number"),
        ({"number": "1e999999999"}, "type number"),
        ({"number": True}, "type number"),
        ({"flag": 1}, "type bool"),
        ({"text": ["a"]}, "type string"),
        ({"list": "a"}, "list"),
        ({"list": [{}]}, r"list\[0\]"),
        ({"one": [{}, {}]}, "only one block"),
        ({"one": 3}, "a block is required"),
        ({"ports": 3}, "a block of values"),
        ({"many": [{"b": "x"}] * 3}, "at most 2"),
        ({"many": [{}]}, "config.many.b is required"),
    ],
)
def test_what_an_agent_would_refuse_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        encode_config(_SCHEMA, values)


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("txt", 'did you mean "text"?'),
        ("x", "there are: flag, list, many, number, one, ports, text"),
    ],
)
def test_an_unknown_option_comes_with_what_may_be_meant(option: str, hint: str) -> None:
    with pytest.raises(JobError) as caught:
        encode_config(_SCHEMA, {option: 1})
    assert caught.value.hint == hint


def test_driver_reads_what_is_encoded_for_its_schema() -> None:
    values = {"image": "x", "cpus": "2", "ports": [{"ssh": 22}], "network": [{"mode": "user"}]}
    options = parse_options(encode_config(task_schema(), values))
    assert (options.cpus, options.ports, options.network[0].mode) == (2, {"ssh": 22}, "user")
