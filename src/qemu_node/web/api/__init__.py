"""The routes of /api/v1 that are not of a part of their own.

- `allroutes`: all of them, and the document
- `vm`: of one VM, and the list of VMs
- `loginroutes`: login, logout, session, tickets, handover
- `eventroutes`: what changes, as a stream
- `noderoutes`: this node
- `clusterroutes`: the VMs of other nodes
- `nomadtasks`: what is asked of Nomad about a task
"""
