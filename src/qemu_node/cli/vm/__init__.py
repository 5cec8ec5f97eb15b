"""`qemu-node vm`: the VMs of this machine."""
