"""`qemu-node run`: a job file's VMs on this machine, through the driver, without a Nomad agent."""
