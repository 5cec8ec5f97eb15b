"""One TAP as a port of the bridge: its steps, its limits, the uplink, what has to be repaired."""
