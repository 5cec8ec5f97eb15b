"""The driver: Nomad's RPCs, the node that it serves, its process."""
