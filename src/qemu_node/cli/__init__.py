"""The command `qemu-node`."""
