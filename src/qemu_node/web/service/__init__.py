"""The process of the console, and what builds and starts all of its parts.

- `daemon`: the process `qemu-node serve`
- `daemonlog`: its log
- `serving`: builds the parts and starts them, for the daemon and for `qemu-node run`
- `accessparts`: the parts of access and login
"""
