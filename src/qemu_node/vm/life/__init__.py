"""A running VM: watched, measured, stopped, ended."""
