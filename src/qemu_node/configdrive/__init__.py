"""The config drive: an ISO with which a guest configures itself at its first boot."""
