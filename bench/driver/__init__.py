"""The goals of the driver: starts, many VMs at once, memory."""
