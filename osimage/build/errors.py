"""What goes wrong in a build, for people."""

from qemu_node.errors import NodeError


class BuildError(NodeError):
    """The build cannot go on; what earlier builds made is unchanged."""
