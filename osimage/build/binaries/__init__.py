"""Nomad and the Elemental CLI: official releases, pinned and verified, or local files."""
