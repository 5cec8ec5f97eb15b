"""An image in an OCI registry, as a file over HTTP."""
