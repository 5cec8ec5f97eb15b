import pytest

from qemu_node.nomad.plugin import hclspec


@pytest.mark.parametrize("hcl_type", ["", "map(string)"])
def test_types_that_keep_an_agent_from_starting_are_refused(hcl_type: str) -> None:
    with pytest.raises(ValueError, match="block_attrs"):
        hclspec.attr("x", hcl_type)


def test_attribute_carries_name_type_and_need() -> None:
    spec = hclspec.attr("image", "string", required=True)
    assert (spec.attr.name, spec.attr.type, spec.attr.required) == ("image", "string", True)


def test_blocks_nest() -> None:
    body = hclspec.object_of({"mode": hclspec.attr("mode", "string")})
    spec = hclspec.object_of({
        "network": hclspec.block_list("network", body, max_items=2),
        "guest_agent": hclspec.block("guest_agent", body),
        "ports": hclspec.block_attrs("ports", "number"),
    })  # fmt: skip
    attributes = spec.object.attributes
    assert attributes["network"].block_list.max_items == 2
    assert attributes["network"].block_list.nested == body
    assert attributes["guest_agent"].block_value.nested == body
    assert attributes["ports"].block_attrs.type == "number"
