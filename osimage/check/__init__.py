"""What must hold of a root file system: `python -m osimage.build check`, and tests/os.

`files` looks at the tree, `system` asks systemd, nft and the signatures, `all` names the checks.
Each returns what is wrong, a line each, and nothing if all is well.
"""
