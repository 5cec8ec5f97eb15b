"""One VM's life, from a request to its removal; and all VMs of the node."""
