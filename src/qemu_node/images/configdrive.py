"""The earlier name of `configdrive.content`, for scripts outside of this repository."""

from qemu_node.configdrive.content import complete

__all__ = ["complete"]
