"""How somebody becomes a session.

- `access`: all of it for one application
- `routes`: login, logout, session, tickets, handover
- `door`: the ways in
- `attempts`: limits against guessing
- `oidc`: through a provider that Nomad knows
- `password`: one for the whole console
"""
