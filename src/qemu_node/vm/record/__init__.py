"""What is written down about VMs, where, under which user, and its removal."""
