"""Which VMs there are, and how they are."""
