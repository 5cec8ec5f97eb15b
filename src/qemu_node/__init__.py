"""Nomad QEMU node: the task driver `vm`, the node daemon and the command `qemu-node`."""
