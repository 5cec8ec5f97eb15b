"""The settings of an installed node, which outlive its images.

`datamount` does what an installation left to do for /data, and remembers its disk. `archive` is a
node's whole configuration in one file, `restore` puts it back. `reset` is the factory reset,
`host` sets host name and password.
"""
