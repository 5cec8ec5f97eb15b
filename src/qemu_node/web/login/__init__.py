"""How somebody becomes a session.

- `access`: all of it for one application
- `routes`: login, logout, session, tickets, handover
- `door`: what proves who somebody is becomes a session
- `ways`: which ways are open to whom
- `attempts`: limits against guessing
- `onetime`: one-time tokens of Nomad
- `oidc`: through a provider that Nomad knows
- `password`: one for the whole console
"""
