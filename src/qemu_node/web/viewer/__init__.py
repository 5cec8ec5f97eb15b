"""What shows one VM to somebody, and types into it.

- `screen`, `serial`, `keys`: each with routes of its own
- `contract`: what they need of the fleet and of a viewer's socket
"""
