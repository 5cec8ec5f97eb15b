"""How somebody becomes a session.

- `access`: all of it for one application
- `routes`: login, logout, session, tickets, handover
- `door`: the ways in
- `attempts`: limits against guessing
"""
