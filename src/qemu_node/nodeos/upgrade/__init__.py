"""Upgrading the node's system: which image, whether it may be installed, and installing it.

Elemental installs. What is here decides what it is given, watches what it leaves, and checks that
the disk holds what the registry sent.
"""
