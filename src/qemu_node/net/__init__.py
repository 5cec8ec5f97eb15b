"""The node's network: what a NIC may be, its TAP, its bridge port, the filter, the uplink.

`PortManager` is what others use. Nothing here knows VMs, QEMU or Nomad.
"""
