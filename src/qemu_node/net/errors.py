"""Errors of the network. Each class exists because some caller handles it differently."""

from qemu_node.errors import HostError, MissingPartError


class NetworkError(HostError):
    """The kernel refused a step; what the call had done was undone."""


class TapBusyError(NetworkError):
    """A TAP of this name still exists: that of the VM's last run, whose QEMU is exiting."""


class NftError(NetworkError):
    """libnftables refused a transaction; nothing was changed."""


class NetworkOwnedError(NetworkError):
    """Another driver manages the network of this node; nothing was changed."""


class TableOwnedError(NftError):
    """Another process owns the table."""


class NftMissingError(MissingPartError):
    """libnftables is not installed, or the kernel has no nftables."""
