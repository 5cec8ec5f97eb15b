"""The earlier name of `configdrive`, for scripts outside of this repository."""

from qemu_node.configdrive import complete

__all__ = ["complete"]
