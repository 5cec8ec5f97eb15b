"""How somebody becomes a session.

- `door`: what proves who somebody is becomes a session
- `ways`: which ways are open to whom
- `attempts`: limits against guessing
- `onetime`: one-time tokens of Nomad
- `oidc`: through a provider that Nomad knows
- `password`: one for the whole console
"""
