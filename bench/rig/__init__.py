"""What benches are made of: a node with the product's driver, agents, jobs, bare QEMUs, /proc."""
