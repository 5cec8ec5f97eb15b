"""What is written down about VMs, where, under which user, how they end, and their removal."""
