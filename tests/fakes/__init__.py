"""Peers that speak a protocol and can misbehave on request."""
