"""hclspec messages: the schemas by which Nomad checks a configuration block.

Pure. Owns how a schema is written. Does not own which options there are (`task.options`) nor how a
block is checked (the agent, or `agent.encoding`).

Traps (Nomad 2.0.6-dev): no value satisfies an attribute of type `map(…)`, and in a plugin's own
schema it keeps the agent from starting; so does an empty type. Both are refused here.
"""

from collections.abc import Mapping

from qemu_node.nomad.proto.hclspec_pb2 import Attr, Block, BlockAttrs, BlockList, Object, Spec


def attr(name: str, hcl_type: str, *, required: bool = False) -> Spec:
    """Return an attribute `name = value`. If it is left out, it arrives as nil.

    Raises:
        ValueError: Nomad cannot fill `hcl_type`.
    """
    if not hcl_type or hcl_type.startswith("map("):
        raise ValueError(
            f"{name}: an attribute of type {hcl_type!r} cannot be set; use block_attrs"
        )
    return Spec(attr=Attr(name=name, type=hcl_type, required=required))


def block(name: str, nested: Spec) -> Spec:
    """Return a block that may appear once. If it is left out, it arrives as nil."""
    return Spec(block_value=Block(name=name, nested=nested))


def block_list(name: str, nested: Spec, *, max_items: int = 0) -> Spec:
    """Return a repeatable block. It arrives as a list, which may be empty. 0: no limit."""
    return Spec(block_list=BlockList(name=name, max_items=max_items, nested=nested))


def block_attrs(name: str, hcl_type: str) -> Spec:
    """Return a block `name { key = value }` of any keys; if it is left out, it arrives as nil."""
    return Spec(block_attrs=BlockAttrs(name=name, type=hcl_type))


def object_of(attributes: Mapping[str, Spec]) -> Spec:
    """Return the body of a block: its attributes and blocks by name."""
    return Spec(object=Object(attributes=attributes))
