"""The console: web page and API on one port. Below `cli` and `run`; no VM needs it.

- `service`: the process `qemu-node serve`, and what builds and starts all parts
- `api`: the routes of /api/v1 that need no part of their own
- `viewer`: what shows one VM and types into it: screen, serial port, keys
- `page`: what a browser is given
- `frame`: from a table of routes to an application and its OpenAPI document
- `access`: who may do what, by Nomad's ACLs; how somebody logs in
- `fleet`: which VMs there are, and how they are
- `http`: the port, the checks of every request, and what an error looks like
"""
