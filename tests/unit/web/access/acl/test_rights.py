"""The names of what somebody can be allowed."""

from qemu_node.web.access.acl.rights import CAPABILITIES, OF_NODE, Right


def test_every_right_on_a_vm_needs_to_see_it() -> None:
    assert set(CAPABILITIES) == set(Right) - OF_NODE
    assert all("read-job" in needed for needed in CAPABILITIES.values())
