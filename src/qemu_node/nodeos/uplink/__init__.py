"""The node's own network: which NICs are its uplink, with which address, and networkd's files.

`nics` finds the NICs; `choice` decides about address and primary; `files` is what networkd is told;
`settings` finds `[uplink]`; `boot` does all of it before networkd starts.
"""
