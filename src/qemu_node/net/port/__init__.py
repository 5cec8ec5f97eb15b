"""A TAP as a port of the bridge: its setup, its limits, its repair; the uplink."""
