"""The console: web page and API on one port. Below `cli` and `run`; no VM needs it.

- `daemon`: the process `qemu-node serve`
- `daemonlog`: its log
- `serve`: builds the parts and starts them
- `api`: the routes of /api/v1
- `screen`, `serial`, `keys`: parts with routes of their own
- `page`: what a browser is given
- `frame`: from a table of routes to an application and its OpenAPI document
- `access`: who may do what, by Nomad's ACLs
- `fleet`: which VMs there are, and how they are
- `listener`: the port
- `nomadapi`: Nomad's API, asked with a user's token
- `nodenames`: what this node is called
- `problems`: an error, as a client of the API sees it
"""
