"""The routes of /api/v1 that are not of a part of their own.

- `routes`: all of them, and the document
- `vms`: which VMs there are, and one in detail
- `events`: what changes, as a stream
- `power`: buttons, and what Nomad does
- `logs`: what a guest has printed, and what Nomad says of its task
- `guestagent`: what a guest is asked and told
- `node`: this node
- `cluster`: the VMs of other nodes
- `nomadtasks`: what is asked of Nomad about a task
"""
