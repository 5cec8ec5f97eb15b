"""The agent's side of the plugin protocol, for `qemu-node run` and for tests."""
