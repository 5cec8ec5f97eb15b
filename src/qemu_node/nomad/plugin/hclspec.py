"""hclspec messages: the schemas that Nomad checks a configuration block against.

Pure. Owns the spelling of a schema; what is in one belongs to `options`, and how a block is checked
against it to the agent, or to `encoding`.

Traps (Nomad 2.0.6-dev): an attribute of type `map(…)` can never be satisfied, and in a plugin's own
schema it keeps the agent from starting; so does an empty type. Both are refused here.
"""

from collections.abc import Mapping

from qemu_node.nomad.proto.hclspec_pb2 import (
    Attr,
    Block,
    BlockAttrs,
    BlockList,
    Object,
    Spec,
)


def attr(name: str, hcl_type: str, *, required: bool = False) -> Spec:
    """Return an attribute `name = value`; absent, it arrives as nil.

    Raises:
        ValueError: `hcl_type` is one that Nomad cannot fill.
    """
    if not hcl_type or hcl_type.startswith("map("):
        raise ValueError(
            f"{name}: an attribute of type {hcl_type!r} cannot be set; use block_attrs"
        )
    return Spec(attr=Attr(name=name, type=hcl_type, required=required))


def block(name: str, nested: Spec, *, required: bool = False) -> Spec:
    """Return a block that may be there once; absent, it arrives as nil."""
    return Spec(block_value=Block(name=name, required=required, nested=nested))


def block_list(name: str, nested: Spec, *, min_items: int = 0, max_items: int = 0) -> Spec:
    """Return a repeatable block; it arrives as a list, empty where absent. 0: no limit."""
    return Spec(
        block_list=BlockList(name=name, min_items=min_items, max_items=max_items, nested=nested)
    )


def block_attrs(name: str, hcl_type: str, *, required: bool = False) -> Spec:
    """Return a block of free keys with values of one type, `name { key = value }`; absent, nil."""
    return Spec(block_attrs=BlockAttrs(name=name, type=hcl_type, required=required))


def object_of(attributes: Mapping[str, Spec]) -> Spec:
    """Return the body of a block: what may be in it, by name."""
    return Spec(object=Object(attributes=attributes))
