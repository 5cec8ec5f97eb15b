"""The node's network: what a NIC may be, its TAP, its port of the bridge, the filter, the uplink.

`PortManager` is the entry point. Nothing here knows VMs, QEMU or Nomad.
"""
