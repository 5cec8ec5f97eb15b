"""A job file, in whichever form, to what its VMs need."""
