"""Routes of the VMs of this node.

- `vmroutes`: which VMs there are, and one in detail
- `powerroutes`: buttons, and what Nomad does
- `logroutes`: what a guest has printed, and what Nomad says of its task
- `agentroutes`: what a guest is asked and told
"""
