"""The version of this software; the package's metadata take it from here.

The driver does not read it from those: importlib.metadata and its imports cost 1 MiB.
"""

VERSION = "0.1.0"
