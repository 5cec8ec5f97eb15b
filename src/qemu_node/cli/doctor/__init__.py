"""`qemu-node doctor`: what this machine lacks for VMs."""
