"""What a node does about its own operating system, where that is the image of `osimage`.

`paths` is where things are, `release` which image this is, `boot` how it was booted. Nothing of
the driver imports this: a VM does not depend on how its node is installed.
"""
