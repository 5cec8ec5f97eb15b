"""Ending a node's work before it goes down: the drain in Nomad, and its undoing after the boot."""
