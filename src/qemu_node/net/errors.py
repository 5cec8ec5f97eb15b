"""How the network can fail a VM. Each class exists because a caller acts differently on it."""

from qemu_node.errors import HostError, MissingPartError


class NetworkError(HostError):
    """The kernel refused a step; what the call had done is undone."""


class TapBusyError(NetworkError):
    """A TAP of this name is still there: of the VM's last run, whose QEMU is going."""


class BridgeUnfitError(MissingPartError):
    """The bridge is not there, or not one that keeps VLANs apart; nothing was changed."""


class NftError(NetworkError):
    """libnftables refused a transaction; none of it was done."""


class NetworkOwnedError(NetworkError):
    """Another driver manages the network of this node; nothing was changed."""


class TableOwnedError(NftError):
    """Another process holds the table."""


class NftMissingError(MissingPartError):
    """libnftables is not installed, or the kernel has no nftables."""
