"""Who may do what, and how somebody logs in.

- `guard`: judges every request that is not open
- `login`: how somebody becomes a session
- `session`: who is logged in, and what goes on in a session
- `acl`: what a token of Nomad allows
- `access_settings`: how people get in, as node.toml says
- `audit`: who did what
"""
