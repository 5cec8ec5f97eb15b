"""The build program: `python -m osimage.build`.

`request` is what is asked for, `stages` the cache of finished steps, `namespace` where steps act.
`binaries/` gets Nomad and the Elemental CLI, `tree/` makes the root file system, `artefact/` what
is given to others: ISO, OCI image, lists.
"""
