"""`qemu-node os`: a node's own operating system. `group` lists the commands."""
