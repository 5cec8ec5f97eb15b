"""Ending a node's work before it goes down: drain, restart, and the drain's end after the boot."""
