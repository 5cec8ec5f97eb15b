"""The installation of a node, by a person or unattended.

`seed` is what an operator writes down, `source` where it is found. `disks` reads which disks there
are, `choice` decides about them. `login` takes over what the live system's administrator has set,
`staging` puts all settings together, `install` formats disks and calls Elemental's installer.
"""
