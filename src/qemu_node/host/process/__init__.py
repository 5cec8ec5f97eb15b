"""Processes of this host: start, identity, signals, users, privileges."""
