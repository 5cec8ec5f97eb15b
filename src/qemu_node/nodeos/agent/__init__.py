"""The node's own Nomad agent: its configuration files, and its API by the node's own secret."""
